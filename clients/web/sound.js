// The microphone and the loudspeaker: PCM, mono, 16 bits, 24,000 samples a second.

export const RATE = 24000;

export class Sound {
  // Opens both. Browsers let a page do so only once its user has clicked something.
  static async open(onPiece) {
    const context = new AudioContext({ sampleRate: RATE });
    await context.audioWorklet.addModule("worklets.js");
    const player = new AudioWorkletNode(context, "player", { outputChannelCount: [1] });
    player.connect(context.destination);
    return new Sound(context, player, onPiece);
  }

  constructor(context, player, onPiece) {
    this.context = context;
    this.player = player;
    this.onPiece = onPiece;
    this.played = 0;
    player.port.onmessage = ({ data }) => { this.played = data; };
  }

  async listen() {
    if (this.microphone) return;
    const wanted = { echoCancellation: true, noiseSuppression: true, autoGainControl: true, channelCount: 1 };
    this.microphone = await navigator.mediaDevices.getUserMedia({ audio: wanted });
    const source = this.context.createMediaStreamSource(this.microphone);
    this.recorder = new AudioWorkletNode(this.context, "recorder", { numberOfOutputs: 0 });
    this.recorder.port.onmessage = ({ data }) => this.onPiece(data);
    source.connect(this.recorder);
  }

  deafen() {
    this.recorder?.port.close();
    this.recorder?.disconnect();
    this.microphone?.getTracks().forEach((track) => track.stop());
    this.recorder = this.microphone = null;
  }

  begin() {
    this.played = 0;
    this.player.port.postMessage("begin");
  }

  play(pcm) { this.player.port.postMessage(pcm, [pcm.buffer]); }

  // Stops, and returns the milliseconds of the reply that were heard.
  stop() {
    this.player.port.postMessage("stop");
    return Math.floor(this.played * 1000 / RATE);
  }
}

export function toBase64(pcm) {
  const bytes = new Uint8Array(pcm.buffer, pcm.byteOffset, pcm.byteLength);
  let text = "";
  for (let begin = 0; begin < bytes.length; begin += 0x8000) {
    text += String.fromCharCode(...bytes.subarray(begin, begin + 0x8000));
  }
  return btoa(text);
}

export function fromBase64(text) {
  const bytes = Uint8Array.from(atob(text), (sign) => sign.charCodeAt(0));
  return new Int16Array(bytes.buffer, 0, bytes.length >> 1);
}
