// The client secret with which a page may open a session: from its own server, which knows its visitor.

export interface Secret {
  value: string;
  expires_at?: number; // seconds since 1970
}

// A callback of the page's, or the address on its server that answers a POST with one.
export type Source = string | (() => Promise<Secret | string>);

const MARGIN = 15; // seconds before its end from which a secret is not used any more
const PATIENCE = 15_000; // ms

// The page's server refused, or answered with something that is no secret.
export class NoSecret extends Error {}

export class Credentials {
  #source: Source | null;
  #secret: Secret | null = null;

  constructor(source: Source | null) {
    this.#source = source;
  }

  // A secret that is still valid; an empty text where the page needs none. Rejects with NoSecret.
  async get(): Promise<string> {
    if (this.#source === null) return "";
    const least = Date.now() / 1000 + MARGIN;
    if (this.#secret === null || (this.#secret.expires_at ?? Infinity) < least) {
      this.#secret = await ask(this.#source);
    }
    return this.#secret.value;
  }

  // The server has refused it.
  forget(): void {
    this.#secret = null;
  }
}

async function ask(source: Source): Promise<Secret> {
  let answer: unknown;
  try {
    answer = typeof source === "string" ? await post(source) : await source();
  } catch (error) {
    if (error instanceof NoSecret) throw error;
    throw new NoSecret(error instanceof Error ? error.message : String(error));
  }
  const secret = (typeof answer === "string" ? { value: answer } : answer) as Secret | null | undefined;
  // What would not fit into a subprotocol would make the browser throw where nothing explains it.
  if (!secret || typeof secret.value !== "string" || !/^[\w.~-]{1,512}$/.test(secret.value)) {
    throw new NoSecret("The page's server answered with something that is no client secret.");
  }
  return secret;
}

async function post(address: string): Promise<unknown> {
  const signal = AbortSignal.timeout(PATIENCE);
  const response = await fetch(address, { method: "POST", credentials: "same-origin", signal });
  if (!response.ok) throw new NoSecret(`The page's server answered ${response.status}.`);
  return response.json();
}
