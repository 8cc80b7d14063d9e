// Replies read aloud in this tab.

import { Player, RATE, samplesOf } from "./sound";

export class Speech {
  #context: AudioContext | null = null;
  #player: Player | null = null;
  #item = ""; // that is played, or was played last
  #silenced = ""; // of which nothing more is played
  #changed: () => void;

  constructor(changed: () => void) {
    this.#changed = changed;
  }

  // Browsers give sound only to a page that its user has just touched. Rejects where there is no sound at all.
  async enable(): Promise<void> {
    this.#context ??= new AudioContext({ sampleRate: RATE, latencyHint: "interactive" });
    this.#player ??= new Player(this.#context);
    await this.#context.resume();
  }

  get playing(): boolean {
    return this.#player?.playing ?? false;
  }

  play(item: string, base64: string): void {
    if (!this.#player || item === this.#silenced) return; // the last of its pieces were on their way
    if (item !== this.#item) {
      this.#item = item;
      this.#player.begin(this.#changed);
    }
    this.#player.play(samplesOf(base64));
  }

  // Be silent at once; returns which reply was being played, and how much of it was heard.
  stop(): { item: string; ms: number } | null {
    if (!this.#player?.playing) return null;
    const ms = this.#player.stop();
    this.#silenced = this.#item;
    this.#changed();
    return { item: this.#item, ms };
  }

  close(): void {
    this.#player?.stop();
    void this.#context?.close();
    this.#context = this.#player = null;
  }
}
