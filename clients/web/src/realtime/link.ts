// A websocket to a session that comes back when it breaks, and neither loses nor repeats an event.

import { Credentials, NoSecret } from "./credentials";
import { ANSWERS, parse, type ClientEvent, type ServerEvent } from "./events";

export type State =
  | "closed" // nothing is wanted
  | "connecting"
  | "open"
  | "waiting" // for the next try
  | "refused"; // trying again would not help

// With what a session is come back to, over a reload of the page too.
export interface Ticket {
  token: string;
  last: string; // the latest event of the session
  unanswered: ClientEvent[];
}

export interface Listener {
  state(state: State, reason: string): void;
  take(event: ServerEvent): void;
  // A session begins in which nothing was said yet; what is returned is sent first.
  begun(lost: boolean): ClientEvent[];
}

const FIRST_PAUSE = 250; // ms
const LONGEST_PAUSE = 15_000;
const OPEN_PATIENCE = 10_000;
const ANSWER_PATIENCE = 15_000; // without a word after an event of ours: a page can't see pings, and a dead line says nothing
const MOST_UNANSWERED = 32;
const MOST_BUFFERED = 1 << 20; // bytes that wait for a slow network, beyond which sound is dropped
const GONE = ["session_not_found", "invalid_after", "session_expired", "conversation_deleted"]; // the next one is a new one
const RENEWABLE = ["invalid_api_key"]; // once, with another secret
const REFUSALS = [...RENEWABLE, "insufficient_scope", "origin_not_allowed", "model_not_found"];

export class Link {
  #address: string;
  #credentials: Credentials;
  #listener: Listener;
  #socket: WebSocket | null = null;
  #ticket: Ticket;
  #wanted = false;
  #tries = 0;
  #lost = false; // the server no longer has the session
  #timer = 0;
  #watch = 0;
  #attempt = 0; // counts, so that what belongs to an earlier one is recognised
  #refusal = ""; // the code of an error behind which the server closes
  #heard = false; // an event came over this socket
  #prefix = random();
  #count = 0;
  #state: State = "closed";

  // `address` is the server's, http or https.
  constructor(address: string, credentials: Credentials, listener: Listener, ticket: Ticket | null = null) {
    this.#address = address;
    this.#credentials = credentials;
    this.#listener = listener;
    this.#ticket = ticket ?? { token: "", last: "", unanswered: [] };
  }

  get state(): State {
    return this.#state;
  }

  get ticket(): Ticket {
    return { ...this.#ticket, unanswered: [...this.#ticket.unanswered] };
  }

  // Connect, unless that is under way; at once, where the next try would only come later.
  open(): void {
    this.#wanted = true;
    if (this.#state === "open" || this.#state === "connecting") return;
    this.#tries = 0;
    void this.#connect();
  }

  // The network is another one, or is back: what was tried before may wait for nothing.
  retry(): void {
    if (!this.#wanted || this.#state === "open") return;
    this.#drop(4000);
    this.#tries = 0;
    void this.#connect();
  }

  // Leave the session for good.
  close(): void {
    this.#wanted = false;
    this.#ticket = { token: "", last: "", unanswered: [] };
    this.#drop(1000);
    this.#become("closed");
  }

  // Let go of the socket; the session goes on, for this page or another one.
  release(): void {
    this.#wanted = false;
    this.#drop(4000);
    this.#become("closed");
  }

  make(type: string, fields: Record<string, unknown> = {}): ClientEvent {
    return { type, event_id: `${this.#prefix}.${++this.#count}`, ...fields };
  }

  // Send an event; while there is no socket it waits for the next one.
  send(event: ClientEvent): void {
    if (event.type in ANSWERS) {
      this.#ticket.unanswered = [...this.#ticket.unanswered, event].slice(-MOST_UNANSWERED);
    }
    if (this.#state !== "open") return this.open();
    this.#write(event);
    if (event.type in ANSWERS) this.#await();
  }

  // Send an event that is worth nothing later, as a piece of sound; returns whether it was.
  now(type: string, fields: Record<string, unknown>): boolean {
    const socket = this.#socket;
    if (this.#state !== "open" || !socket || socket.bufferedAmount > MOST_BUFFERED) return false;
    this.#write(this.make(type, fields));
    return true;
  }

  #become(state: State, reason = ""): void {
    if (state === this.#state && !reason) return;
    this.#state = state;
    this.#listener.state(state, reason);
  }

  async #connect(): Promise<void> {
    clearTimeout(this.#timer);
    const attempt = ++this.#attempt;
    this.#refusal = "";
    this.#heard = false;
    this.#become("connecting");
    let secret: string;
    try {
      secret = await this.#credentials.get();
    } catch (error) {
      if (attempt !== this.#attempt) return;
      console.warn("loquent-chat:", error instanceof NoSecret ? error.message : error);
      return this.#later("no_secret");
    }
    if (attempt !== this.#attempt || !this.#wanted) return;
    const address = new URL(`${this.#address}/v1/realtime`);
    address.protocol = address.protocol.replace("http", "ws");
    const { token, last } = this.#ticket;
    if (token) address.search = new URLSearchParams(last ? { session: token, after: last } : { session: token }).toString();
    let socket: WebSocket;
    try {
      socket = new WebSocket(address, ["realtime", ...(secret ? [`openai-insecure-api-key.${secret}`] : [])]);
    } catch (error) {
      console.error("loquent-chat:", error); // a page that came by https connects to nothing less
      return this.#refuse("insecure");
    }
    this.#socket = socket;
    const patience = setTimeout(() => {
      if (socket === this.#socket) this.#give("no_connection"); // its own end may not come for minutes
    }, OPEN_PATIENCE);
    socket.onopen = () => {
      clearTimeout(patience);
      // To who comes back and has missed nothing, the server has nothing to say.
      if (token && socket === this.#socket) this.#opened();
    };
    socket.onmessage = ({ data }) => {
      if (socket === this.#socket) this.#hear(data);
    };
    socket.onclose = ({ code, reason }) => {
      clearTimeout(patience);
      if (socket !== this.#socket) return;
      this.#socket = null;
      this.#ended(code, reason);
    };
  }

  #hear(data: unknown): void {
    const event = parse(data);
    if (event === null) return;
    clearTimeout(this.#watch);
    const ticket = this.#ticket;
    const code = event.type === "error" ? (event.error?.code ?? "") : "";
    const final = GONE.includes(code) || RENEWABLE.includes(code) || (!this.#heard && REFUSALS.includes(code));
    if (final) this.#refusal = code;
    if (this.#refusal) return; // the close follows, and is where this is dealt with
    this.#heard = true;
    this.#tries = 0;
    if (event.type === "session.created" && !this.#isMine(event)) {
      this.#ticket = { ...ticket, token: event.loquent?.resume_token ?? "", last: event.event_id };
      const first = this.#listener.begun(this.#lost);
      this.#lost = false;
      // What was said before the session began comes behind what it begins with.
      this.#ticket.unanswered = [...first, ...ticket.unanswered.filter((each) => each.type !== "response.cancel")];
      this.#opened();
    } else {
      if (this.#isMine(event)) this.#ticket.last = event.event_id;
    }
    this.#answered(event);
    this.#listener.take(event);
  }

  // The server gets what it may not have.
  #opened(): void {
    for (const event of this.#ticket.unanswered) this.#write(event);
    if (this.#ticket.unanswered.length > 0) this.#await();
    this.#become("open");
  }

  // Whether the event has a number in the log of the session that we have a token for.
  #isMine(event: ServerEvent): boolean {
    const { token } = this.#ticket;
    return token !== "" && event.event_id.startsWith(`event_${token.slice(5, 21)}`);
  }

  #answered(event: ServerEvent): void {
    const { unanswered } = this.#ticket;
    const at = unanswered.findIndex((each) =>
      event.type === "error" ? event.error?.event_id === each.event_id : ANSWERS[each.type] === event.type,
    );
    if (at >= 0) this.#ticket.unanswered = unanswered.filter((_, index) => index !== at);
  }

  #ended(code: number, reason: string): void {
    if (!this.#wanted) return;
    const why = this.#refusal || reason.replace(/^invalid_request_error\./, "");
    if (code === 4001) {
      this.#wanted = false;
      return this.#become("closed", "session_taken_over");
    }
    if (GONE.includes(why)) {
      this.#ticket = { ...this.#ticket, token: "", last: "" };
      this.#lost = true;
      return void this.#connect();
    }
    const again = RENEWABLE.includes(why) && this.#tries === 0;
    if (again) this.#credentials.forget();
    else if (REFUSALS.includes(why)) return this.#refuse(why);
    this.#later(why || String(code));
  }

  #refuse(why: string): void {
    this.#wanted = false;
    this.#become("refused", why);
  }

  #later(why: string): void {
    const most = Math.min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** this.#tries++);
    this.#become("waiting", why);
    this.#timer = setTimeout(() => void this.#connect(), most * (0.5 + Math.random() / 2));
  }

  #write(event: ClientEvent): void {
    if (this.#socket?.readyState === WebSocket.OPEN) this.#socket.send(JSON.stringify(event));
  }

  // A line that is dead, and does not say so, is left for another one.
  #await(): void {
    clearTimeout(this.#watch);
    const socket = this.#socket;
    this.#watch = setTimeout(() => {
      if (socket !== null && socket === this.#socket) this.#give("no_answer");
    }, ANSWER_PATIENCE);
  }

  // Give this connection up, for another one.
  #give(why: string): void {
    this.#drop(4000);
    this.#later(why);
  }

  #drop(code: number): void {
    clearTimeout(this.#timer);
    clearTimeout(this.#watch);
    this.#attempt++;
    const socket = this.#socket;
    this.#socket = null;
    socket?.close(code);
  }
}

export function random(): string {
  return Array.from(crypto.getRandomValues(new Uint8Array(8)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}
