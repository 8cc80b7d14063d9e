// One message as it is shown.

import { isOpen, type Message } from "../realtime/conversation";
import type { Rating } from "../realtime/events";
import { pictureOf } from "../render/addresses";
import { h, icon } from "../render/dom";
import { Markdown } from "../render/markdown";
import { clean } from "../render/text";
import * as icons from "./icons";
import { fill, type Locale, type Texts } from "./locales";

// What a message needs from where it is shown.
export interface Surroundings {
  server: string;
  texts: Texts;
  locale: Locale;
  user: string; // the name that the page gave its visitor
  isLast(message: Message): boolean;
  copy(message: Message): Promise<boolean>; // whether it was
  retry(): void;
  rate(message: Message, rating: Rating | null): void;
}

const RENDER_SHARE = 4; // a text that took a millisecond to render is rendered again after four

const clocks = new Map<Locale, Intl.DateTimeFormat>(); // making one takes longer than the rest of a message

function clock(locale: Locale): Intl.DateTimeFormat {
  const made = clocks.get(locale) ?? new Intl.DateTimeFormat(locale, { hour: "2-digit", minute: "2-digit" });
  clocks.set(locale, made);
  return made;
}

export class MessageView {
  readonly element: HTMLElement;
  readonly message: Message;
  #around: Surroundings;
  #body = h("div", { class: "body", part: "body", dir: "auto" });
  #meta = h("div", { class: "meta", part: "meta" });
  #pictures = h("div", { class: "pictures" });
  #markdown: Markdown | null = null;
  #shown = ""; // the text that is rendered
  #key = ""; // what the line below it is made of
  #ready = 0; // when it may be rendered again, by the clock of performance.now()

  constructor(message: Message, around: Surroundings) {
    this.message = message;
    this.#around = around;
    const { role } = message;
    const { texts } = around;
    const name = role === "user" ? around.user || texts.you : texts.assistant;
    const who = h("span", { class: role === "user" && around.user ? "who" : "who hidden" }, clean(name), ": ");
    this.element = h(
      "article",
      { class: `message ${role}`, part: `message ${role}-message` },
      who,
      this.#body,
      this.#pictures,
      this.#meta,
    );
    if (role === "assistant") {
      this.#markdown = new Markdown(this.#body, around.server, () => around.texts);
    }
    this.render();
  }

  // Show the message as it is now; returns the ms after which it must be shown once more, or 0.
  render(): number {
    const { message } = this;
    const open = isOpen(message);
    const now = performance.now();
    if (message.text !== this.#shown || !this.#key) {
      if (open && now < this.#ready) return this.#ready - now;
      this.#text();
      this.#ready = performance.now() + RENDER_SHARE * (performance.now() - now);
    }
    const last = this.#around.isLast(message);
    const key = [message.status, message.rating, message.error, message.reason, message.ahead, last].join();
    if (key !== this.#key) {
      this.#key = key;
      this.element.classList.toggle("open", open);
      this.element.setAttribute("aria-busy", String(open));
      this.#pictures.replaceChildren(...this.#shownPictures());
      this.#meta.replaceChildren(...this.#line(open, last));
    }
    return 0;
  }

  get plain(): string {
    this.#ready = 0;
    this.render();
    return this.#body.innerText || this.#body.textContent || "";
  }

  #text(): void {
    const { text } = this.message;
    if (this.#markdown) this.#markdown.show(text);
    else this.#body.textContent = clean(text);
    this.#shown = text;
  }

  // Pictures that are not in the text, as those of spoken replies.
  #shownPictures(): Node[] {
    return (this.message.pictures ?? []).flatMap(({ url, caption }) => {
      const src = pictureOf(url, this.#around.server);
      if (src === null || this.message.text.includes(url)) return [];
      return [h("img", { src, alt: clean(caption), loading: "lazy", part: "picture" })];
    });
  }

  #line(open: boolean, last: boolean): Node[] {
    const { message } = this;
    const { texts, locale } = this.#around;
    if (message.status === "waiting" && message.ahead) {
      return [h("span", { class: "note" }, fill(texts.queued, message.ahead, locale))];
    }
    if (message.status === "waiting") {
      return [h("span", { class: "typing", role: "img", "aria-label": texts.typing }, h("i"), h("i"), h("i"))];
    }
    if (open) return [];
    const date = new Date(message.at);
    const nodes: Node[] = [h("time", { datetime: date.toISOString() }, clock(locale).format(date))];
    const note = this.#note();
    if (note) nodes.push(h("span", { class: "note" }, note));
    if (message.role === "assistant") nodes.push(...this.#actions(last));
    else if (message.status === "failed" && last) nodes.push(this.#button(icons.RETRY, texts.retry, () => this.#around.retry()));
    return nodes;
  }

  #note(): string {
    const { status, reason, error, role } = this.message;
    const { texts } = this.#around;
    if (role === "user") return status === "failed" ? texts.unsent : "";
    if (reason === "content_filter") return texts.filtered;
    if (error === "rate_limit_exceeded" || error === "turn_limit_reached") return texts.limited;
    if (status === "cancelled") return texts.cancelled;
    if (status === "failed") return texts.failed;
    return status === "incomplete" ? texts.incomplete : "";
  }

  #actions(last: boolean): Node[] {
    const { message } = this;
    const { texts } = this.#around;
    const nodes: Node[] = [];
    if (message.text) {
      const copy: HTMLButtonElement = this.#button(icons.COPY, texts.copy, () => {
        void this.#around.copy(message).then((copied) => {
          if (!copied) return;
          copy.setAttribute("aria-label", texts.copied);
          copy.classList.add("done");
          setTimeout(() => (copy.setAttribute("aria-label", texts.copy), copy.classList.remove("done")), 1500);
        });
      });
      nodes.push(copy);
      if (message.id !== message.response) {
        nodes.push(this.#thumb("up", icons.UP, texts.good), this.#thumb("down", icons.DOWN, texts.bad));
      }
    }
    if (last) nodes.push(this.#button(icons.RETRY, texts.retry, () => this.#around.retry()));
    return nodes;
  }

  #thumb(rating: Rating, path: string, label: string): Node {
    const given = this.message.rating === rating;
    const button = this.#button(path, label, () => this.#around.rate(this.message, given ? null : rating));
    button.setAttribute("aria-pressed", String(given));
    return button;
  }

  #button(path: string, label: string, click: () => void): HTMLButtonElement {
    const attributes = { type: "button", class: "small", part: "action", "aria-label": label, title: label, click };
    return h("button", attributes, icon(path));
  }
}
