// The microphone: PCM, mono, 16 bits, 24,000 samples a second, in pieces of 40 ms.

import { RATE } from "./sound";

export class Microphone {
  #context: AudioContext | null = null;
  #stream: MediaStream | null = null;

  // Browsers give it to secure pages alone.
  static get able(): boolean {
    return typeof navigator.mediaDevices?.getUserMedia === "function" && typeof AudioWorkletNode === "function";
  }

  get open(): boolean {
    return this.#stream !== null;
  }

  // Ask the user for it, and call `take` with each piece, in base64. Rejects where there is none, or it is denied.
  async start(server: string, take: (piece: string) => void): Promise<void> {
    if (this.#stream) return;
    const wanted = { echoCancellation: true, noiseSuppression: true, autoGainControl: true, channelCount: 1 };
    this.#stream = await navigator.mediaDevices.getUserMedia({ audio: wanted });
    try {
      this.#context = new AudioContext({ sampleRate: RATE });
      await this.#context.audioWorklet.addModule(`${server}/recorder.js`);
      const recorder = new AudioWorkletNode(this.#context, "loquent-recorder", { numberOfOutputs: 0 });
      recorder.port.onmessage = ({ data }) => take(base64Of(data as Int16Array));
      this.#context.createMediaStreamSource(this.#stream).connect(recorder);
      await this.#context.resume();
    } catch (error) {
      this.stop();
      throw error;
    }
  }

  stop(): void {
    for (const track of this.#stream?.getTracks() ?? []) track.stop();
    void this.#context?.close();
    this.#stream = this.#context = null;
  }
}

function base64Of(pcm: Int16Array): string {
  const bytes = new Uint8Array(pcm.buffer, pcm.byteOffset, pcm.byteLength);
  return btoa(String.fromCharCode(...bytes));
}
