"""Sound in the formats that clients ask for, encoded while it is made."""

import io
import struct
from typing import Any, Literal, get_args

from pipelines.events import AUDIO_RATE

AudioFormatName = Literal["mp3", "opus", "flac", "wav", "pcm"]
FORMATS: tuple[AudioFormatName, ...] = get_args(AudioFormatName)

CONTENT_TYPES: dict[AudioFormatName, str] = {
    "mp3": "audio/mpeg",
    "opus": "audio/ogg",
    "flac": "audio/flac",
    "wav": "audio/wav",
    "pcm": "audio/pcm",
}
CODECS = {"mp3": ("MP3", "MPEG_LAYER_III"), "opus": ("OGG", "OPUS"), "flac": ("FLAC", "PCM_16")}

# Without a level soundfile does not set the mode. 0.6 makes 64 kbit/s; at a variable rate libsndfile takes the length
# from a header that can only be written at the end, and reads no further than it guesses.
MP3 = {"bitrate_mode": "CONSTANT", "compression_level": 0.6}
# Bytes of FLAC that wait for the end, about five minutes: libsndfile reads it only if its header has the exact length.
# What is longer is sent while it is made, with the length that says "unknown", which stream decoders read.
FLAC_HELD = 8 << 20
UNKNOWN_LENGTH = 0xFFFFFFFF  # what a WAV header says that is written before its end is known


class Encoder:
    """From ``AudioDelta.pcm`` to bytes of a file that can be played while it still comes; FLAC comes at its end."""

    def __init__(self, name: AudioFormatName, *, held: int = FLAC_HELD) -> None:
        self._name: AudioFormatName = name
        self._out = _Stream(held if name == "flac" else 0)
        if name == "wav":
            self._out.write(_wav_header())
        elif name in CODECS:
            import soundfile

            container, codec = CODECS[name]
            how: dict[str, Any] = MP3 if name == "mp3" else {}
            self._file = soundfile.SoundFile(
                self._out, "w", samplerate=AUDIO_RATE, channels=1, format=container, subtype=codec, **how
            )

    def encode(self, pcm: bytes) -> bytes:
        """What these samples become; codecs hold some of it back."""
        if self._name in CODECS:
            self._file.buffer_write(pcm, dtype="int16")
            self._file.flush()
        else:
            self._out.write(pcm)
        return self._out.take()

    def end(self) -> bytes:
        """The end of the file."""
        if self._name in CODECS:
            self._file.close()
        self._out.release()
        return self._out.take()


def _wav_header() -> bytes:
    """Of a stream: its lengths are unknown, which players take for "until the end"."""
    riff = struct.pack("<4sI4s", b"RIFF", UNKNOWN_LENGTH, b"WAVE")
    form = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 1, AUDIO_RATE, 2 * AUDIO_RATE, 2, 16)
    return riff + form + struct.pack("<4sI", b"data", UNKNOWN_LENGTH)


class _Stream:
    """A file for libsndfile whose sent part stays as it is: what would be corrected there is dropped.

    Nothing is sent before more than ``held`` bytes wait, or ``release``.
    """

    def __init__(self, held: int = 0) -> None:
        self._held = held
        self._new = bytearray()  # not sent
        self._sent = 0  # bytes
        self._at = 0

    def write(self, data: bytes) -> int:
        late = max(self._sent - self._at, 0)  # bytes that were sent already
        begin = self._at + late - self._sent
        fresh = memoryview(data)[late:]
        self._new[begin : begin + len(fresh)] = fresh
        self._at += len(data)
        return len(data)

    def read(self, size: int = -1) -> bytes:
        return b""

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._sent + len(self._new)}[whence]
        self._at = base + offset
        return self._at

    def tell(self) -> int:
        return self._at

    def release(self) -> None:
        """Hold nothing back any more."""
        self._held = 0

    def take(self) -> bytes:
        """What may be sent and was not."""
        if len(self._new) <= self._held:
            return b""
        self._held = 0
        new, self._new = bytes(self._new), bytearray()
        self._sent += len(new)
        return new
