// The chat's panel: its parts, and what they say. What they do is the element's.

import { h, icon } from "../render/dom";
import * as icons from "./icons";
import type { Texts } from "./locales";

export interface Deeds {
  toggle(): void;
  close(): void;
  reset(): void;
  speak(): void;
  send(text: string): void;
  stop(): void;
  reconnect(): void;
  latest(): void;
  talk(on: boolean): void;
}

export class Panel {
  readonly badge = h("span", { class: "badge", part: "badge", hidden: true });
  readonly launcher: HTMLButtonElement;
  readonly title = h("h2", { part: "title", id: "title" });
  readonly log = h("div", { class: "log", part: "log", role: "log", "aria-live": "off", tabindex: "0" });
  readonly announcer = h("div", { class: "hidden", role: "status", "aria-live": "polite" });
  readonly quick = h("div", { class: "quick", part: "quick-replies", hidden: true });
  readonly input: HTMLTextAreaElement;
  readonly element: HTMLElement;
  readonly speaker: HTMLButtonElement;
  readonly microphone = h("button", { type: "button", class: "microphone", part: "microphone", hidden: true });
  #state = h("span");
  #again: HTMLButtonElement;
  #status: HTMLElement;
  #send = h("button", { type: "submit", class: "send", part: "send" });
  #latest: HTMLButtonElement;
  #reset: HTMLButtonElement;
  #close: HTMLButtonElement;
  #deeds: Deeds;
  #texts: Texts | null = null;
  #busy = false;
  #hold = false;

  constructor(deeds: Deeds) {
    this.#deeds = deeds;
    const button = (name: string, path: string, click: () => void): HTMLButtonElement =>
      h("button", { type: "button", class: name, part: name, click }, icon(path));
    this.launcher = button("launcher", icons.CHAT, () => deeds.toggle());
    this.launcher.append(this.badge);
    this.#reset = button("reset", icons.RESET, () => deeds.reset());
    this.speaker = button("speaker", icons.MUTED, () => deeds.speak());
    this.#close = button("close", icons.CLOSE, () => deeds.close());
    this.#again = h("button", { type: "button", click: () => deeds.reconnect() });
    this.#status = h("div", { class: "status", part: "status", hidden: true }, this.#state, this.#again);
    this.#latest = h("button", { type: "button", class: "latest", part: "latest", hidden: true, click: () => deeds.latest() });
    this.input = h("textarea", { rows: "1", part: "input", enterkeyhint: "send", maxlength: "8000", dir: "auto" });
    this.microphone.append(icon(icons.MICROPHONE));
    this.#press();
    const form = h("form", { part: "form" }, this.input, this.microphone, this.#send);
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      if (this.#busy && !this.input.value.trim()) deeds.stop();
      else this.#submit();
    });
    this.input.addEventListener("keydown", (event) => this.#key(event));
    this.input.addEventListener("input", () => this.#label());
    this.element = h(
      "section",
      { class: "panel", part: "panel", role: "dialog", "aria-labelledby": "title", id: "panel", hidden: true },
      h("header", { part: "header" }, this.title, this.#reset, this.speaker, this.#close),
      this.log,
      h("div", { class: "foot", part: "footer" }, this.#latest, this.#status, this.quick, form),
      this.announcer,
    );
    this.launcher.setAttribute("aria-controls", "panel");
  }

  // Say everything in this language.
  label(texts: Texts, title: string, placeholder: string): void {
    this.#texts = texts;
    this.title.textContent = title || texts.title;
    this.log.setAttribute("aria-label", texts.conversation);
    this.input.setAttribute("aria-label", texts.message);
    this.input.placeholder = placeholder || texts.placeholder;
    for (const [button, text] of [
      [this.#reset, texts.reset],
      [this.speaker, texts.speak],
      [this.#close, texts.close],
    ] as const) {
      button.setAttribute("aria-label", text);
      button.title = text;
    }
    this.#latest.textContent = texts.latest;
    this.#again.textContent = texts.retry;
    this.#label();
  }

  // Whether a reply is in progress: then the button stops it, unless there is something to send.
  busy(busy: boolean): void {
    if (busy === this.#busy) return;
    this.#busy = busy;
    this.#label();
  }

  aloud(aloud: boolean): void {
    this.speaker.setAttribute("aria-pressed", String(aloud));
    this.speaker.replaceChildren(icon(aloud ? icons.SPEAKER : icons.MUTED));
  }

  // Whether the microphone is open, or is while its button is held.
  talking(talks: boolean): void {
    this.microphone.setAttribute("aria-pressed", String(talks));
  }

  // Whether there is a microphone, and whether its button is held rather than pressed.
  hears(hears: boolean, hold: boolean): void {
    this.microphone.hidden = !hears;
    this.#hold = hold;
    this.#label();
  }

  away(away: boolean): void {
    this.#latest.hidden = !away;
  }

  state(text: string, again: boolean): void {
    this.#state.textContent = text;
    this.#again.hidden = !again;
    this.#status.hidden = !text;
  }

  replies(texts: readonly string[]): void {
    this.quick.hidden = texts.length === 0;
    this.quick.replaceChildren(
      ...texts.map((text) => h("button", { type: "button", dir: "auto", click: () => this.#deeds.send(text) }, text)),
    );
  }

  // Say something once to those who hear the page.
  announce(text: string): void {
    this.announcer.textContent = text;
  }

  #press(): void {
    const button = this.microphone;
    const pressed = (): boolean => button.getAttribute("aria-pressed") === "true";
    button.addEventListener("click", () => !this.#hold && this.#deeds.talk(!pressed()));
    button.addEventListener("pointerdown", () => this.#hold && this.#deeds.talk(true));
    for (const end of ["pointerup", "pointerleave", "pointercancel", "blur"]) {
      button.addEventListener(end, () => this.#hold && pressed() && this.#deeds.talk(false));
    }
    const key = (event: KeyboardEvent): boolean => this.#hold && (event.key === " " || event.key === "Enter");
    button.addEventListener("keydown", (event) => {
      if (!key(event)) return;
      event.preventDefault();
      if (!event.repeat) this.#deeds.talk(true);
    });
    button.addEventListener("keyup", (event) => key(event) && pressed() && this.#deeds.talk(false));
  }

  #submit(): void {
    const text = this.input.value.trim();
    if (!text) return;
    this.input.value = "";
    this.#label();
    this.#deeds.send(text);
  }

  #key(event: KeyboardEvent): void {
    // Enter that ends the composition of a character sends nothing.
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    this.#submit();
  }

  #label(): void {
    if (!this.#texts) return;
    const talk = this.#hold ? this.#texts.hold : this.#texts.talk;
    this.microphone.setAttribute("aria-label", talk);
    this.microphone.title = talk;
    const empty = !this.input.value.trim();
    const stops = this.#busy && empty;
    const text = stops ? this.#texts.stop : this.#texts.send;
    this.#send.disabled = empty && !this.#busy;
    if (this.#send.getAttribute("aria-label") === text) return;
    this.#send.setAttribute("aria-label", text);
    this.#send.title = text;
    const drawing = icon(stops ? icons.STOP : icons.SEND);
    if (!stops) drawing.classList.add("arrow");
    this.#send.replaceChildren(drawing);
  }
}
