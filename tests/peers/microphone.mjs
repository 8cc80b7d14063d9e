// A microphone for the scripts in JavaScript: as microphone.py in Python.
import { readFileSync } from "node:fs";

const PIECE = 1920; // bytes: 40 ms of PCM, mono, 16 bits, 24,000 samples a second

export class Microphone {
  waiting = Buffer.alloc(0);

  constructor(send) {
    this.timer = setInterval(() => {
      const piece = Buffer.alloc(PIECE);
      this.waiting.copy(piece, 0, 0, PIECE);
      this.waiting = this.waiting.subarray(PIECE);
      send(piece.buffer.slice(piece.byteOffset, piece.byteOffset + PIECE));
    }, 40);
  }

  // Say a recording, behind what is being said.
  say(name) {
    this.waiting = Buffer.concat([this.waiting, readFileSync(`${process.env.RECORDINGS}/${name}.pcm`)]);
  }

  close() {
    clearInterval(this.timer);
  }
}
