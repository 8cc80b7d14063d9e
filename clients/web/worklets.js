// What runs on the browser's audio thread.

const PIECE = 960; // samples that are sent at once: 40 ms

class Recorder extends AudioWorkletProcessor {
  piece = new Int16Array(PIECE);
  filled = 0;

  process([channels]) {
    for (const sample of channels[0] ?? []) {
      this.piece[this.filled++] = Math.max(-1, Math.min(1, sample)) * 32767;
      if (this.filled === PIECE) {
        this.port.postMessage(this.piece.slice());
        this.filled = 0;
      }
    }
    return true;
  }
}

class Player extends AudioWorkletProcessor {
  pieces = []; // bounded by the server, which sends some seconds ahead
  at = 0; // in the first of them
  played = 0; // samples of this reply

  constructor() {
    super();
    this.port.onmessage = ({ data }) => {
      if (data === "begin" || data === "stop") {
        this.pieces = [];
        this.at = 0;
        if (data === "begin") this.played = 0;
      } else {
        this.pieces.push(data);
      }
    };
  }

  process(_, [[out]]) {
    const before = this.played;
    for (let index = 0; index < out.length && this.pieces.length; index++) {
      out[index] = this.pieces[0][this.at++] / 32768;
      this.played++;
      if (this.at === this.pieces[0].length) {
        this.pieces.shift();
        this.at = 0;
      }
    }
    if (this.played !== before) this.port.postMessage(this.played);
    return true;
  }
}

registerProcessor("recorder", Recorder);
registerProcessor("player", Player);
