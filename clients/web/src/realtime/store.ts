// What a page remembers over a reload: the conversation, and with what its session is come back to.

import type { Message } from "./conversation";
import type { Ticket } from "./link";

export interface Saved {
  ticket: Ticket;
  messages: Message[];
}

const VERSION = 1;
const MOST_CHARACTERS = 1_000_000; // of texts; browsers give an origin some five million
const MOST_AGE = 24 * 3600 * 1000; // ms without use, after which a conversation is forgotten

export class Store {
  #key: string;
  #storage: Storage | null;

  // `shared`: for all tabs of the origin, else for this one. Without storage (a sandboxed frame) nothing is remembered.
  constructor(key: string, shared: boolean) {
    this.#key = key;
    try {
      this.#storage = shared ? localStorage : sessionStorage;
    } catch {
      this.#storage = null;
    }
  }

  load(): Saved | null {
    try {
      const saved = JSON.parse(this.#storage?.getItem(this.#key) ?? "null");
      if (saved?.version !== VERSION || !(Date.now() - saved.at < MOST_AGE)) return null;
      return isSaved(saved) ? { ticket: saved.ticket, messages: saved.messages } : null;
    } catch {
      return null; // what is there was not written by us
    }
  }

  save({ ticket, messages }: Saved): void {
    let room = MOST_CHARACTERS;
    const recent = messages.findLastIndex((each) => (room -= each.text.length + 200) < 0) + 1;
    const saved = { version: VERSION, at: Date.now(), ticket, messages: messages.slice(recent) };
    try {
      this.#storage?.setItem(this.#key, JSON.stringify(saved));
    } catch {
      this.clear(); // an older state would be a wrong one
    }
  }

  clear(): void {
    try {
      this.#storage?.removeItem(this.#key);
    } catch {
      // there is none
    }
  }
}

function isSaved(saved: Saved): boolean {
  const { ticket, messages } = saved;
  const right = [ticket?.token, ticket?.last].every((each) => typeof each === "string");
  return (
    right &&
    Array.isArray(ticket.unanswered) &&
    Array.isArray(messages) &&
    messages.every((each) => typeof each.id === "string" && typeof each.text === "string" && typeof each.at === "number")
  );
}
