// A conversation with a server: what its user does, what is shown, and what is remembered.

import { Conversation, type Change, type Message } from "./conversation";
import { Credentials, type Source } from "./credentials";
import { isSound, type ClientEvent, type Problem, type Rating, type ServerEvent } from "./events";
import { Link, random, type State } from "./link";
import { Store } from "./store";
import { Tabs } from "./tabs";

export interface Options {
  server: string; // http or https
  source: Source | null; // of client secrets
  user: string; // whose conversation it is; of visitors who are not known, an empty text
  session: Record<string, unknown>; // settings, as `session.update` has them
}

export interface Watcher {
  changed(change: Change): void;
  state(state: State, reason: string): void;
  failed(problem: Problem): void;
  // Every event of the server's, sound included where this tab asked for it.
  event(event: ServerEvent): void;
}

// What a user does. Every tab applies it to what it shows; the one that has the socket sends it, too.
type Action =
  | { kind: "say"; id: string; text: string; at: number; aloud: boolean }
  | { kind: "stop" }
  | { kind: "retry"; id: string; aloud: boolean } // `id` is of the reply that goes
  | { kind: "rate"; id: string; rating: Rating | null }
  | { kind: "heard"; id: string; ms: number }
  | { kind: "reset" };

type Post =
  | { action: Action; number: string; tab: string }
  | { event: ServerEvent; at: number; tab: string }
  | { state: State; reason: string }
  | { joined: string }
  | { messages: Message[]; state: State };

const SAVE_PAUSE = 1000; // ms between two states that are stored amid a reply
const TAKE_OVER = 3000; // ms without an answer of the tab that has the socket
const RESTORED = 20; // messages that a new session is given of one that was lost
const RESTORED_CHARACTERS = 16_000;

export class Chat {
  readonly conversation: Conversation;
  #options: Options;
  #watcher: Watcher;
  #store: Store;
  #tabs: Tabs<Post>;
  #link: Link | null = null;
  #credentials: Credentials;
  #tab = random();
  #aloudIn = ""; // the tab that hears the reply in progress
  #pending = new Map<string, Action>(); // which no other tab has confirmed
  #seen: string[] = []; // numbers of actions that were applied
  #state: State = "closed";
  #saving = 0;
  #wanted = false;
  #listens = false;

  constructor(options: Options, watcher: Watcher) {
    this.#options = options;
    this.#watcher = watcher;
    this.#credentials = new Credentials(options.source);
    const key = `loquent-chat:${options.server}:${options.user}`;
    this.#store = new Store(key, Tabs.able);
    this.conversation = new Conversation(
      (change) => watcher.changed(change),
      (problem) => watcher.failed(problem),
      this.#store.load()?.messages,
    );
    this.#tabs = new Tabs<Post>(key, {
      lead: () => this.#lead(),
      follow: () => this.#yield(),
      hear: (post) => this.#hear(post),
    });
    this.#tabs.join();
    this.#tabs.post({ joined: this.#tab });
    addEventListener("pagehide", this.#leaving);
    addEventListener("online", this.#online);
  }

  get state(): State {
    return this.#state;
  }

  // Connect, if that is not so yet. A tab that does not have the socket sees what the other one does.
  open(): void {
    this.#wanted = true;
    this.#link?.open();
  }

  say(text: string, aloud = false): void {
    this.#do({ kind: "say", id: `item_${random()}${random()}`, text, at: Date.now(), aloud });
  }

  stop(): void {
    if (this.conversation.reply) this.#do({ kind: "stop" });
  }

  // Have the last message answered once more.
  retry(aloud = false): void {
    const { last } = this.conversation;
    this.#do({ kind: "retry", id: last?.role === "assistant" ? last.id : "", aloud });
  }

  rate(id: string, rating: Rating | null): void {
    this.#do({ kind: "rate", id, rating });
  }

  // So much of a spoken reply was heard; the rest leaves the conversation.
  heard(id: string, ms: number): void {
    this.#do({ kind: "heard", id, ms });
  }

  // Forget the conversation, here and, where it is not stored there, on the server.
  reset(): void {
    this.#do({ kind: "reset" });
  }

  // Change the session's settings, from the next reply on.
  configure(session: Record<string, unknown>): void {
    this.#options = { ...this.#options, session };
    if (this.#link?.ticket.token) this.#link.send(this.#settings(this.#link));
  }

  // This tab has the microphone, or has it no longer: what is said in reply is heard here.
  listen(listens: boolean): void {
    if (listens && !this.#link) this.#tabs.takeOver();
    this.#listens = listens;
    this.#aloudIn = listens ? this.#tab : "";
  }

  // More of what the user says: PCM in base64. Without a connection it is lost.
  hear(audio: string): void {
    this.#link?.now("input_audio_buffer.append", { audio });
  }

  // What was said so far is all.
  commit(): void {
    this.#signal("input_audio_buffer.commit");
    this.#signal("response.create", { response: { output_modalities: ["audio"] } });
  }

  // What was heard so far counts for nothing.
  discard(): void {
    this.#signal("input_audio_buffer.clear");
  }

  #signal(type: string, fields: Record<string, unknown> = {}): void {
    if (this.#link) this.#link.send(this.#link.make(type, fields));
  }

  // Let go of the socket, and of what else is held; the session goes on.
  leave(): void {
    this.#leaving();
    removeEventListener("pagehide", this.#leaving);
    removeEventListener("online", this.#online);
    this.#link?.release();
    this.#tabs.leave();
  }

  #leaving = (): void => {
    if (this.#link) this.#save();
  };

  #online = (): void => {
    this.#link?.retry();
  };

  #lead(): void {
    const saved = this.#store.load();
    if (saved) this.conversation.messages = saved.messages;
    this.#link = new Link(
      this.#options.server,
      this.#credentials,
      {
        state: (state, reason) => this.#become(state, reason),
        take: (event) => this.#take(event),
        begun: (lost) => this.#begun(lost),
      },
      saved?.ticket,
    );
    this.#watcher.changed("all");
    for (const [number, action] of this.#pending) this.#execute(action, number, this.#tab);
    this.#pending.clear();
    if (this.#wanted || saved?.ticket.token) this.#link.open();
  }

  // Another tab leads, because this one was not there when it was needed.
  #yield(): void {
    this.#link?.release();
    this.#link = null;
    this.#tabs.post({ joined: this.#tab });
  }

  // Actions

  #do(action: Action): void {
    const number = random();
    this.#apply(action, number);
    if (this.#link) return this.#execute(action, number, this.#tab);
    this.#pending.set(number, action);
    this.#tabs.post({ action, number, tab: this.#tab });
    setTimeout(() => this.#pending.has(number) && this.#tabs.takeOver(), TAKE_OVER);
  }

  #apply(action: Action, number: string): void {
    if (this.#seen.includes(number)) return;
    this.#seen = [...this.#seen, number].slice(-64);
    const { conversation } = this;
    if (action.kind === "say") conversation.say(action.id, action.text, action.at);
    if (action.kind === "rate") conversation.rate(action.id, action.rating);
    if (action.kind === "retry") conversation.remove(action.id);
    if (action.kind === "reset") {
      conversation.messages = [];
      this.#watcher.changed("all");
    }
  }

  // Only where the socket is.
  #execute(action: Action, number: string, tab: string): void {
    const link = this.#link!;
    const send = (type: string, fields: Record<string, unknown> = {}): void => link.send(link.make(type, fields));
    const respond = (aloud: boolean): void => {
      this.#aloudIn = aloud ? tab : this.#listens ? this.#tab : "";
      send("response.create", { response: { output_modalities: [aloud ? "audio" : "text"] } });
    };
    switch (action.kind) {
      case "say": {
        if (this.conversation.reply) send("response.cancel");
        const content = [{ type: "input_text", text: action.text }];
        const item = { id: action.id, type: "message", role: "user", content };
        link.send({ ...link.make("conversation.item.create", { item }), event_id: `say.${action.id}` });
        respond(action.aloud);
        break;
      }
      case "stop":
        send("response.cancel");
        break;
      case "retry":
        if (action.id.startsWith("item_")) send("conversation.item.delete", { item_id: action.id });
        respond(action.aloud);
        break;
      case "rate":
        send("loquent.feedback", { item_id: action.id, rating: action.rating });
        break;
      case "heard":
        send("conversation.item.truncate", { item_id: action.id, content_index: 0, audio_end_ms: action.ms });
        break;
      case "reset":
        link.close();
        this.#store.clear();
        if (this.#wanted) link.open();
        break;
    }
    this.#apply(action, number);
    this.#tabs.post({ action, number, tab: this.#tab });
    this.#save();
  }

  // What comes from the server

  #take(event: ServerEvent): void {
    const at = Date.now();
    if (!isSound(event) || this.#aloudIn !== this.#tab) this.#tabs.post({ event, at, tab: this.#aloudIn });
    this.#show(event, at, this.#aloudIn);
    if (event.type === "response.done") this.#save();
    else this.#saving ||= setTimeout(() => this.#save(), SAVE_PAUSE);
  }

  // Sound is for the tab that asked for it alone.
  #show(event: ServerEvent, at: number, tab: string): void {
    if (!isSound(event)) this.conversation.take(event, at);
    else if (tab !== this.#tab) return;
    this.#watcher.event(event);
  }

  #begun(lost: boolean): ClientEvent[] {
    const link = this.#link!;
    if (lost) this.conversation.lost();
    const items = lost ? this.#earlier().map((item) => link.make("conversation.item.create", { item })) : [];
    return Object.keys(this.#options.session).length ? [this.#settings(link), ...items] : items;
  }

  #settings(link: Link): ClientEvent {
    return link.make("session.update", { session: { type: "realtime", ...this.#options.session } });
  }

  // What was said last, for a session that does not know it.
  #earlier(): Record<string, unknown>[] {
    let room = RESTORED_CHARACTERS;
    const said = this.conversation.messages.filter(
      (each) => each.text && each.status !== "sending" && each.id !== each.response,
    );
    const recent = said.slice(-RESTORED).filter((_, index, all) => {
      room -= all[all.length - 1 - index]!.text.length;
      return room >= 0;
    }).length;
    return said.slice(said.length - recent).map(({ id, role, text }) => ({
      id,
      type: "message",
      role,
      content: [{ type: role === "user" ? "input_text" : "output_text", text }],
    }));
  }

  #become(state: State, reason: string): void {
    this.#tabs.post({ state, reason });
    this.#follow(state, reason);
  }

  // What other tabs say

  #hear(post: Post): void {
    if ("joined" in post) {
      if (this.#link) this.#tabs.post({ messages: this.conversation.messages, state: this.#state });
    } else if ("action" in post) {
      if (this.#link) return this.#execute(post.action, post.number, post.tab);
      this.#pending.delete(post.number);
      this.#apply(post.action, post.number);
    } else if (this.#link) {
      return; // only one tab has the socket
    } else if ("event" in post) {
      this.#show(post.event, post.at, post.tab);
    } else if ("messages" in post) {
      this.conversation.messages = post.messages;
      this.#watcher.changed("all");
      this.#follow(post.state, "");
    } else {
      this.#follow(post.state, post.reason);
    }
  }

  #follow(state: State, reason: string): void {
    this.#state = state;
    this.#watcher.state(state, reason);
  }

  #save(): void {
    clearTimeout(this.#saving);
    this.#saving = 0;
    if (this.#link) this.#store.save({ ticket: this.#link.ticket, messages: this.conversation.messages });
  }
}
