// How fast the replies come, as this browser sees it.

import type { ServerEvent } from "../realtime/events";
import { h, svg } from "../render/dom";

const SHOWN = 20; // replies

interface Reply {
  asked: number; // ms by the clock of performance.now()
  first?: number; // text
  sound?: number;
  tokens?: number; // a second
}

export class Latency {
  #figures: HTMLElement;
  #plot: HTMLElement;
  #replies: Reply[] = [];
  #asked = 0;

  constructor(figures: HTMLElement, plot: HTMLElement) {
    this.#figures = figures;
    this.#plot = plot;
    this.#show();
  }

  // Something was asked now.
  asked(): void {
    this.#asked = performance.now();
  }

  take(event: ServerEvent): void {
    const now = performance.now();
    const reply = this.#replies.at(-1);
    switch (event.type) {
      case "input_audio_buffer.speech_stopped":
        this.#asked = now;
        break;
      case "response.created":
        this.#replies = [...this.#replies, { asked: this.#asked || now }].slice(-SHOWN);
        this.#asked = 0;
        break;
      case "response.output_text.delta":
      case "response.output_audio_transcript.delta":
        if (reply) reply.first ??= now;
        break;
      case "response.output_audio.delta":
        if (reply) reply.sound ??= now;
        break;
      case "response.done": {
        const tokens = event.response?.usage?.output_tokens ?? 0;
        if (reply?.first && !reply.sound && tokens > 1) reply.tokens = ((tokens - 1) * 1000) / (now - reply.first);
        this.#show();
        break;
      }
    }
  }

  #show(): void {
    const last = this.#replies.at(-1);
    const ms = (at: number | undefined): string => (last && at ? `${Math.round(at - last.asked)} ms` : "–");
    const rows = [
      ["first token", ms(last?.first)],
      ["tokens a second", last?.tokens ? last.tokens.toFixed(0) : "–"],
      ["first sound", ms(last?.sound)],
    ];
    this.#figures.replaceChildren(...rows.map(([name, value]) => h("div", {}, h("dt", {}, name!), h("dd", {}, value!))));
    this.#plot.replaceChildren(...this.#bars());
  }

  // First tokens of the last replies, as bars.
  #bars(): Node[] {
    const times = this.#replies.map(({ asked, first }) => (first ? first - asked : 0));
    if (times.length === 0) return [];
    const most = Math.max(...times, 1);
    const bars = times.map((time, at) => {
      const height = Math.max((48 * time) / most, 1);
      const place = { x: String(at * 10 + 1), y: String(58 - height), width: "8", height: String(height) };
      return svg("rect", place, svg("title", {}, `${Math.round(time)} ms`));
    });
    const label = `First token of the last ${times.length} replies, at most ${Math.round(most)} ms`;
    const drawn = { viewBox: "0 0 200 60", role: "img", preserveAspectRatio: "none", "aria-label": label };
    return [svg("svg", drawn, ...bars)];
  }
}
