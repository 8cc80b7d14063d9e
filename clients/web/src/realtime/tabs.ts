// Tabs of one origin that share a conversation: one of them has the socket, and the others see and do the same.

export interface Peer<Post> {
  // This tab has the socket from now on.
  lead(): void;
  hear(post: Post): void;
}

export class Tabs<Post> {
  #name: string;
  #channel: BroadcastChannel | null = null;
  #leave: (() => void) | null = null;
  #left = new AbortController();
  #peer: Peer<Post>;
  leads = false;

  // `name` is that of the conversation. Where tabs can't agree on a leader, each has a conversation of its own.
  constructor(name: string, peer: Peer<Post>) {
    this.#name = name;
    this.#peer = peer;
  }

  static get able(): boolean {
    return typeof navigator.locks?.request === "function" && typeof BroadcastChannel === "function";
  }

  join(): void {
    if (!Tabs.able) {
      this.leads = true;
      return this.#peer.lead();
    }
    this.#channel = new BroadcastChannel(this.#name);
    this.#channel.onmessage = ({ data }) => this.#peer.hear(data as Post);
    const held = new Promise<void>((resolve) => (this.#leave = resolve));
    navigator.locks
      .request(this.#name, { signal: this.#left.signal }, () => {
        if (this.#left.signal.aborted) return; // it was granted before the abort arrived
        this.leads = true;
        this.#peer.lead();
        return held;
      })
      .catch((error: unknown) => {
        if (!this.#left.signal.aborted) reportError(error);
      });
  }

  post(post: Post): void {
    this.#channel?.postMessage(post);
  }

  leave(): void {
    this.#channel?.close();
    this.#channel = null;
    this.#left.abort();
    this.#leave?.();
    this.leads = false;
  }
}
