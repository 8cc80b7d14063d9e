// What was said: the messages that a conversation shows, as the events of its session make them.

import type { Item, Picture, Problem, Rating, Response, ServerEvent } from "./events";

export type Role = "user" | "assistant";

export type Status =
  | "sending" // not yet known to be with the server
  | "waiting" // a reply of which nothing has come
  | "streaming"
  | "done"
  | "cancelled"
  | "incomplete"
  | "failed";

export interface Message {
  id: string; // of its item; of a reply without one, of its response
  role: Role;
  text: string;
  status: Status;
  at: number; // ms since 1970
  response?: string;
  pictures?: Picture[];
  rating?: Rating | null;
  error?: string; // its code
  reason?: string; // of a reply that is not whole
  ahead?: number; // replies that come first
}

// Whether a reply is in progress.
export function isOpen({ status }: Message): boolean {
  return status === "waiting" || status === "streaming";
}

// What a change means for who shows it: one message, or all of them.
export type Change = Message | "all";

const MOST = 5000; // messages that are held
const HARMLESS = ["response_cancel_not_active", "item_truncate_invalid_item_id", "history_unavailable"];
const UNHEARD = "no_speech"; // the end of a response to sound in which nobody spoke

export class Conversation {
  messages: Message[];
  #changed: (change: Change) => void;
  #failed: (problem: Problem) => void;

  constructor(changed: (change: Change) => void, failed: (problem: Problem) => void, messages: Message[] = []) {
    this.#changed = changed;
    this.#failed = failed;
    this.messages = messages;
  }

  // The reply in progress.
  get reply(): Message | undefined {
    return this.messages.findLast(isOpen);
  }

  get last(): Message | undefined {
    return this.messages.at(-1);
  }

  find(id: string | undefined): Message | undefined {
    return id ? this.messages.findLast((each) => each.id === id) : undefined;
  }

  ofResponse(id: string): Message | undefined {
    return this.messages.findLast((each) => each.response === id);
  }

  // A message of the user's, shown at once.
  say(id: string, text: string, at: number): Message {
    return this.#add({ id, role: "user", text, status: "sending", at });
  }

  remove(id: string): void {
    this.messages = this.messages.filter((each) => each.id !== id);
    this.#changed("all");
  }

  rate(id: string, rating: Rating | null): void {
    const message = this.find(id);
    if (message) this.#set(message, { rating });
  }

  // The server no longer has what was in progress.
  lost(): void {
    for (const each of this.messages.filter(isOpen)) {
      this.#set(each, { status: "incomplete", reason: "connection_lost" });
    }
  }

  // Apply an event. `at` is the time, in ms since 1970.
  take(event: ServerEvent, at: number): void {
    switch (event.type) {
      case "conversation.item.added":
        return this.#appeared(event.item, at);
      case "conversation.item.done":
        return this.#stored(event.item);
      case "conversation.item.deleted":
        return this.find(event.item_id) && this.remove(event.item_id!);
      case "conversation.item.input_audio_transcription.completed":
        return this.#whole(event.item_id, event.transcript);
      case "response.created":
        return this.#begun(event, at);
      case "response.output_item.added":
        return this.#itemBegun(event, at);
      case "response.output_text.delta":
      case "response.output_audio_transcript.delta":
        return this.#more(event);
      case "response.output_text.done":
        return this.#whole(event.item_id, event.text);
      case "response.output_audio_transcript.done":
        return this.#whole(event.item_id, event.transcript);
      case "response.done":
        return event.response && this.#ended(event.response, event.loquent?.images ?? [], at);
      case "loquent.feedback.recorded":
        return this.rate(event.item_id ?? "", event.rating ?? null);
      case "error":
        return this.#refused(event.error!);
    }
  }

  #add(message: Message): Message {
    const full = this.messages.length >= MOST;
    if (full) this.messages = this.messages.slice(MOST / 10);
    this.messages.push(message);
    this.#changed(full ? "all" : message);
    return message;
  }

  #set(message: Message, fields: Partial<Message>): void {
    Object.assign(message, fields);
    this.#changed(message);
  }

  // An item that this page did not make: another client of the session did, or it is a catch-up's.
  #appeared(item: Item | undefined, at: number): void {
    if (item?.type !== "message" || item.role !== "user" || this.find(item.id)) return;
    this.#add({ id: item.id, role: "user", text: textOf(item), status: "sending", at });
  }

  #stored(item: Item | undefined): void {
    const message = this.find(item?.id);
    if (item && message?.role === "user") this.#set(message, { status: "done" });
    if (item && message?.role === "assistant") this.#whole(item.id, textOf(item));
  }

  #begun(event: ServerEvent, at: number): void {
    const id = event.response?.id ?? "";
    if (this.ofResponse(id)) return;
    const ahead = event.loquent?.queue?.ahead ?? 0;
    this.#add({ id, response: id, role: "assistant", text: "", status: "waiting", at, ...(ahead ? { ahead } : {}) });
  }

  // The message of a reply takes the place that the reply's beginning made.
  #itemBegun(event: ServerEvent, at: number): void {
    const { item, response_id } = event;
    if (item?.type !== "message" || this.find(item.id)) return;
    const waiting = this.find(response_id);
    if (waiting) this.#set(waiting, { id: item.id });
    else this.#add({ id: item.id, response: response_id ?? "", role: "assistant", text: "", status: "waiting", at });
  }

  #more(event: ServerEvent): void {
    const message = this.find(event.item_id);
    if (message) this.#set(message, { text: message.text + (event.delta ?? ""), status: "streaming" });
  }

  // What the server says the whole is, is right where deltas were missed.
  #whole(id: string | undefined, text: string | null | undefined): void {
    const message = this.find(id);
    if (message && typeof text === "string" && text !== message.text) this.#set(message, { text });
  }

  #ended(response: Response, pictures: Picture[], at: number): void {
    const item = response.output?.find((each) => each.type === "message");
    const message = this.ofResponse(response.id);
    const text = item ? textOf(item) : (message?.text ?? "");
    const { reason, error } = response.status_details ?? {};
    const fields: Partial<Message> = {
      text,
      status: response.status === "completed" ? "done" : (response.status as Status),
      ...(reason ? { reason } : {}),
      ...(error?.code ? { error: error.code } : {}),
      ...(pictures.length ? { pictures } : {}),
    };
    if (message) this.#set(message, fields);
    else if (item) this.#add({ id: item.id, response: response.id, role: "assistant", at, status: "done", ...fields, text });
    if (message && error?.code === UNHEARD) return this.remove(message.id);
    if (error && response.status === "failed") this.#failed(error);
  }

  #refused(problem: Problem): void {
    if (HARMLESS.includes(problem.code ?? "")) return;
    const sent = this.messages.find((each) => each.status === "sending" && problem.event_id === `say.${each.id}`);
    if (sent) this.#set(sent, { status: "failed", error: problem.code ?? "" });
    this.#failed(problem);
  }
}

function textOf(item: Item): string {
  return (item.content ?? []).map((part) => part.text ?? part.transcript ?? "").join("");
}
