// The messages of a conversation, of which there may be thousands: they are made from the last one on, a few in each
// frame, as far as somebody looks; and what grows is rendered at most once a frame.

import type { Message } from "../realtime/conversation";
import { h } from "../render/dom";
import { MessageView, type Surroundings } from "./message";

const SLICE = 5; // ms of work at a time
const BLOCK = 40; // messages of one block: a browser lays out the blocks, and of those out of sight nothing else
const NEAR = 60; // pixels from the end, within which the list stays there

export class MessageList {
  readonly element = h("div", { class: "messages" });
  #scroller: HTMLElement;
  #top = 0; // of what is scrolled, when that was last looked at
  #around: Surroundings;
  #views = new Map<Message, MessageView>();
  #dirty = new Set<MessageView>();
  #frame = 0;
  #timer = 0;
  #earlier = 0; // the frame in which earlier ones come
  #messages: readonly Message[] = [];
  #first = 0; // of them that is shown
  #follows = true; // the end is in sight, and stays so
  #moved: (away: boolean) => void;

  // `scroller` is the element that scrolls, and gets the list; `moved` learns whether its end is out of sight.
  constructor(scroller: HTMLElement, around: Surroundings, moved: (away: boolean) => void) {
    this.#scroller = scroller;
    this.#around = around;
    this.#moved = moved;
    scroller.append(this.element);
    scroller.addEventListener("scroll", () => this.#scrolled(), { passive: true });
    // What comes into sight for the first time may be higher than was expected of it.
    const sizes = new ResizeObserver(() => this.#settle());
    sizes.observe(scroller);
    sizes.observe(this.element);
  }

  // Show these, and no others.
  show(messages: readonly Message[]): void {
    const present = new Set(messages);
    for (const [message, view] of this.#views) {
      if (present.has(message)) continue;
      this.#remove(view.element);
      this.#views.delete(message);
    }
    this.#messages = messages;
    this.#first = messages.length;
    while (this.#first > 0 && this.#views.has(messages[this.#first - 1]!)) this.#first--;
    this.#fill(messages.length - 1, this.#first);
    this.#follows = true;
    if (this.#first > 0 && this.#nearTop) this.#slice(); // at once, or the panel would be empty for a frame
    this.#settle();
  }

  // One of them is new, or has changed.
  update(message: Message): void {
    let view = this.#views.get(message);
    if (!view && this.#messages.lastIndexOf(message) < this.#first) return; // not in sight, and shown as it is once it is
    if (!view) {
      view = this.#make(message);
      this.#place(view.element, null);
      const before = this.#views.get(this.#messages[this.#messages.length - 2]!);
      if (before) this.#dirty.add(before); // it is not the last any more
      if (message.role === "user") this.#follows = true;
    }
    this.#dirty.add(view);
    this.#frame ||= requestAnimationFrame(() => this.#render());
  }

  toEnd(): void {
    this.#follows = true;
    this.#settle();
  }

  // Make everything anew, as after a change of the language.
  clear(): void {
    this.element.replaceChildren();
    this.#views.clear();
    this.#dirty.clear();
  }

  // A message as text, without what its markup looks like.
  plain(message: Message): string {
    return this.#views.get(message)?.plain ?? message.text;
  }

  #make(message: Message): MessageView {
    const view = new MessageView(message, this.#around);
    this.#views.set(message, view);
    return view;
  }

  // Those from `last` back to `first`; behind them nothing is missing.
  #fill(last: number, first: number): void {
    const messages = this.#messages;
    let next = (last + 1 < messages.length && this.#views.get(messages[last + 1]!)?.element) || null;
    for (let at = last; at >= first; at--) {
      const message = messages[at]!;
      const view = this.#views.get(message) ?? this.#make(message);
      if (!view.element.isConnected || following(view.element) !== next) this.#place(view.element, next);
      view.render();
      next = view.element;
    }
  }

  // Put a message before another one, or at the end.
  #place(element: HTMLElement, next: HTMLElement | null): void {
    this.#remove(element);
    const block = next ? next.parentElement : this.element.lastElementChild;
    const full = !block || (block.childElementCount >= BLOCK && (!next || next === block.firstElementChild));
    if (full) this.element.insertBefore(h("div", { class: "block" }, element), next && block);
    else block.insertBefore(element, next);
  }

  #remove(element: HTMLElement): void {
    const block = element.parentElement;
    element.remove();
    if (block?.childElementCount === 0) block.remove();
  }

  // As many more as a frame has time for, without moving what is in sight.
  #more(): void {
    if (this.#first > 0) this.#earlier ||= requestAnimationFrame(() => this.#slice());
  }

  #slice(): void {
    cancelAnimationFrame(this.#earlier);
    this.#earlier = 0;
    const until = performance.now() + SLICE;
    const below = this.#scroller.scrollHeight - this.#scroller.scrollTop;
    while (this.#first > 0) {
      this.#first--;
      this.#fill(this.#first, this.#first);
      if (performance.now() > until) break;
    }
    this.#scroller.scrollTop = this.#scroller.scrollHeight - below;
    if (this.#nearTop) this.#more(); // if nothing has scrolled, no event will say so
  }

  get #nearTop(): boolean {
    return this.#scroller.scrollTop < 2 * this.#scroller.clientHeight;
  }

  #render(): void {
    this.#frame = 0;
    let again = 0;
    for (const view of this.#dirty) {
      const later = view.render();
      if (later === 0) this.#dirty.delete(view);
      again = Math.max(again, later);
    }
    this.#settle();
    if (again === 0) return;
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => (this.#frame ||= requestAnimationFrame(() => this.#render())), again);
  }

  #settle(): void {
    if (this.#follows) {
      this.#scroller.scrollTop = this.#scroller.scrollHeight;
      this.#top = this.#scroller.scrollTop; // a scroll up in the same frame is one, though no event tells of this
    }
    if (this.#first > 0 && this.#nearTop) this.#more(); // what is shown may be too little to scroll
  }

  #scrolled(): void {
    const { scrollTop, scrollHeight, clientHeight } = this.#scroller;
    // The end may be far because the list has grown; only who scrolls up has left it.
    if (scrollHeight - scrollTop - clientHeight < NEAR) this.#follows = true;
    else if (scrollTop < this.#top) this.#follows = false;
    this.#top = scrollTop;
    if (this.#nearTop && !this.#follows) this.#more();
    this.#moved(!this.#follows);
  }
}

// The message behind one, in whichever block it is.
function following(element: Element): Element | null {
  return element.nextElementSibling ?? element.parentElement?.nextElementSibling?.firstElementChild ?? null;
}
