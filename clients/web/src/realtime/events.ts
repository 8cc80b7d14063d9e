// What travels over the websocket, as far as a chat reads it. docs/protocol.md has the whole.

export interface Picture {
  url: string;
  caption: string;
  size: number; // pixels of a side
}

export interface Problem {
  code: string | null;
  message: string;
  event_id?: string | null; // of the client's event that is refused
}

export interface Content {
  type: string;
  text?: string;
  transcript?: string | null;
}

export interface Item {
  id: string;
  type: string;
  role?: string;
  status?: string;
  content?: Content[];
}

export interface Response {
  id: string;
  status: string;
  status_details?: { reason?: string; error?: Problem } | null;
  output?: Item[];
  usage?: { input_tokens?: number; output_tokens?: number } | null;
}

export interface ServerEvent {
  type: string;
  event_id: string;
  item_id?: string;
  response_id?: string;
  delta?: string;
  text?: string;
  transcript?: string;
  item?: Item;
  response?: Response;
  error?: Problem;
  rating?: Rating | null;
  session?: { id: string; model?: string };
  loquent?: {
    session?: string;
    resume_token?: string;
    resumed?: { complete: boolean; items: string[] };
    images?: Picture[];
    queue?: { ahead: number };
    warnings?: string[];
    screening?: unknown;
  } | null;
}

export interface ClientEvent {
  type: string;
  event_id: string;
  [field: string]: unknown;
}

export type Rating = "up" | "down";

// What shows that the server has an event of ours; until then it is sent again over the next socket.
export const ANSWERS: Record<string, string> = {
  "session.update": "session.updated",
  "conversation.item.create": "conversation.item.done",
  "conversation.item.delete": "conversation.item.deleted",
  "conversation.item.truncate": "conversation.item.truncated",
  "input_audio_buffer.commit": "input_audio_buffer.committed",
  "input_audio_buffer.clear": "input_audio_buffer.cleared",
  "response.create": "response.created",
  "response.cancel": "response.done",
  "loquent.feedback": "loquent.feedback.recorded",
};

export function isSound(event: ServerEvent): boolean {
  return event.type === "response.output_audio.delta";
}

// The event that a message holds, or nothing where it is none.
export function parse(data: unknown): ServerEvent | null {
  if (typeof data !== "string") return null;
  try {
    const event: unknown = JSON.parse(data);
    if (typeof event !== "object" || event === null) return null;
    const { type, event_id } = event as Record<string, unknown>;
    return typeof type === "string" && typeof event_id === "string" ? (event as ServerEvent) : null;
  } catch {
    return null;
  }
}
