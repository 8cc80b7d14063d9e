// Spoken replies: pieces of PCM that are played one behind the other, to the sample, and stop at once.

export const RATE = 24_000; // samples a second, mono, 16 bits

const LEAD = 0.06; // seconds between the first piece and its sound, so that a late second one leaves no gap

export class Player {
  #context: BaseAudioContext;
  #output: AudioNode;
  #sources = new Set<AudioBufferSourceNode>();
  #start = 0; // frames of the context's clock
  #end = 0;
  #skipped = 0; // frames of silence amid the reply, where a piece came too late
  #finished: () => void = () => {};

  constructor(context: BaseAudioContext) {
    this.#context = context;
    this.#output = context.createGain();
    this.#output.connect(context.destination);
  }

  // A reply begins: what is left of the one before is not played.
  begin(finished: () => void = () => {}): void {
    this.stop();
    this.#finished = finished;
    this.#start = this.#end = this.#skipped = 0;
  }

  play(samples: Float32Array<ArrayBuffer>): void {
    if (samples.length === 0) return;
    const buffer = this.#context.createBuffer(1, samples.length, RATE);
    buffer.copyToChannel(samples, 0);
    const source = new AudioBufferSourceNode(this.#context, { buffer });
    source.connect(this.#output);
    const soonest = Math.ceil((this.#context.currentTime + LEAD) * RATE);
    if (this.#end === 0) this.#start = this.#end = soonest;
    const now = Math.ceil(this.#context.currentTime * RATE);
    if (this.#end < now) {
      this.#skipped += soonest - this.#end;
      this.#end = soonest;
    }
    // Frames are counted as whole numbers: sums of seconds would leave gaps of a part of a sample.
    source.start(this.#end / RATE);
    this.#end += samples.length;
    this.#sources.add(source);
    source.onended = () => {
      this.#sources.delete(source);
      source.disconnect();
      if (this.#sources.size === 0) this.#finished();
    };
  }

  get playing(): boolean {
    return this.#sources.size > 0;
  }

  // Milliseconds of the reply that were heard.
  get heard(): number {
    if (this.#end === 0) return 0;
    const latency = (this.#context as AudioContext).outputLatency ?? 0;
    const now = Math.min((this.#context.currentTime - latency) * RATE, this.#end);
    return Math.max(0, Math.floor(((now - this.#start - this.#skipped) * 1000) / RATE));
  }

  // Be silent at once; returns the milliseconds that were heard.
  stop(): number {
    const { heard } = this;
    this.#finished = () => {};
    for (const source of this.#sources) {
      source.onended = null;
      source.stop();
      source.disconnect();
    }
    this.#sources.clear();
    this.#end = 0;
    return heard;
  }
}

export function samplesOf(base64: string): Float32Array<ArrayBuffer> {
  const bytes = Uint8Array.from(atob(base64), (sign) => sign.charCodeAt(0));
  const pcm = new DataView(bytes.buffer);
  return Float32Array.from({ length: bytes.length >> 1 }, (_, index) => pcm.getInt16(2 * index, true) / 32_768);
}
