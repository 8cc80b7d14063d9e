"""Sound in the formats that clients ask for, encoded while it is made."""

import io
import struct
from typing import Literal, get_args

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

UNKNOWN_LENGTH = 0xFFFFFFFF  # what a WAV header says that is written before its end is known


class Encoder:
    """From ``AudioDelta.pcm`` to bytes of a file that can be played while it still comes."""

    def __init__(self, name: AudioFormatName) -> None:
        self._name: AudioFormatName = name
        self._out = _Stream()
        if name == "wav":
            self._out.write(_wav_header())
        elif name in CODECS:
            import soundfile

            container, codec = CODECS[name]
            self._file = soundfile.SoundFile(
                self._out, "w", samplerate=AUDIO_RATE, channels=1, format=container, subtype=codec
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
        return self._out.take()


def _wav_header() -> bytes:
    """Of a stream: its lengths are unknown, which players take for "until the end"."""
    riff = struct.pack("<4sI4s", b"RIFF", UNKNOWN_LENGTH, b"WAVE")
    form = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 1, AUDIO_RATE, 2 * AUDIO_RATE, 2, 16)
    return riff + form + struct.pack("<4sI", b"data", UNKNOWN_LENGTH)


class _Stream:
    """A file for libsndfile in which nobody can go back: what it would correct at the beginning was sent already."""

    def __init__(self) -> None:
        self._new = bytearray()
        self._length = 0
        self._at = 0

    def write(self, data: bytes) -> int:
        fresh = self._length - self._at  # bytes that would be written over
        if fresh < len(data):
            self._new += memoryview(data)[max(fresh, 0) :]
            self._length = self._at + len(data)
        self._at += len(data)
        return len(data)

    def read(self, size: int = -1) -> bytes:
        return b""

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._length}[whence]
        self._at = base + offset
        return self._at

    def tell(self) -> int:
        return self._at

    def take(self) -> bytes:
        """What was written since the last time."""
        new, self._new = bytes(self._new), bytearray()
        return new
