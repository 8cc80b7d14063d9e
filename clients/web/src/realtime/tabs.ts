// Tabs of one origin that share a conversation: one of them has the socket, and the others see and do the same.

export interface Peer<Post> {
  // This tab has the socket from now on, or has it no longer.
  lead(): void;
  follow(): void;
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
    // As a lock does, that leads only once whoever joins is complete.
    if (!Tabs.able) return queueMicrotask(() => void this.#lead());
    this.#channel = new BroadcastChannel(this.#name);
    this.#channel.onmessage = ({ data }) => this.#peer.hear(data as Post);
    this.#request({ signal: this.#left.signal });
  }

  // Lead in the place of a tab that does nothing: a browser may have suspended it, lock and all.
  takeOver(): void {
    if (!this.leads && !this.#left.signal.aborted) this.#request({ steal: true });
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

  #request(options: LockOptions): void {
    const held = new Promise<void>((resolve) => (this.#leave = resolve));
    navigator.locks.request(this.#name, options, () => this.#lead() && held).catch((error: unknown) => {
      if (this.#left.signal.aborted) return;
      if (!(error instanceof DOMException && error.name === "AbortError")) return reportError(error);
      if (!this.leads) return;
      this.leads = false;
      this.#peer.follow();
      this.#request({ signal: this.#left.signal });
    });
  }

  // Whether this tab leads from now on: not where it has left meanwhile, or leads already.
  #lead(): boolean {
    if (this.#left.signal.aborted || this.leads) return false;
    this.leads = true;
    this.#peer.lead();
    return true;
  }
}
