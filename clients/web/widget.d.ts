// Types of the widget's element and of the global object, for pages that are written in TypeScript.

export interface LoquentUser {
  /** Whose conversation it is, in this browser. */
  id?: string;
  /** Shown with the user's messages. */
  name?: string;
}

export interface LoquentMessage {
  readonly id: string;
  readonly role: "user" | "assistant";
  readonly text: string;
  readonly status: "sending" | "waiting" | "streaming" | "done" | "cancelled" | "incomplete" | "failed";
  /** Milliseconds since 1970. */
  readonly at: number;
}

export interface LoquentHappenings {
  open: undefined;
  close: undefined;
  message: { id: string; text: string };
  reply: { id: string; text: string; status: string };
  feedback: { id: string; rating: "up" | "down" | null };
  state: { state: "closed" | "connecting" | "open" | "waiting" | "refused"; reason: string };
  error: { code: string; message: string };
  /** An event of the websocket, as docs/protocol.md has it. */
  event: { type: string; event_id: string; [field: string]: unknown };
}

export interface LoquentApi {
  open(): void;
  close(): void;
  toggle(): void;
  send(text: string): void;
  stop(): void;
  setUser(user: LoquentUser): void;
  setLocale(locale: string): void;
  setQuickReplies(texts: readonly string[]): void;
  reset(): void;
  on<Name extends keyof LoquentHappenings>(name: Name, listener: (detail: LoquentHappenings[Name]) => void): () => void;
}

export interface LoquentChatElement extends HTMLElement, LoquentApi {
  /** Gets client secrets, in place of the attribute `secret-url`. */
  getSecret: (() => Promise<string | { value: string; expires_at?: number }>) | null;
  /** Settings of the session, as `session.update` takes them. */
  session: Record<string, unknown>;
  readonly server: string;
  readonly messages: readonly LoquentMessage[];
}

declare global {
  const Loquent: LoquentApi;
  interface HTMLElementTagNameMap {
    "loquent-chat": LoquentChatElement;
  }
}
