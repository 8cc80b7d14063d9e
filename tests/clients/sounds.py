"""Spoken texts for the tests of adapters, from the real server's voice, and its ears to read them back."""

import io
import json
import urllib.request
import wave
from functools import lru_cache
from pathlib import Path

import numpy as np
import soxr

from clients.target import Target
from clients.terminal.http import send
from clients.terminal.listen import _form
from tests.support import PATIENCE


@lru_cache
def spoken(url: str, text: str, rate: int = 16_000) -> bytes:
    """The text in the server's voice: PCM, mono, 16 bits, with half a second of silence on both sides."""
    body = json.dumps({"input": text, "response_format": "pcm"}).encode()
    asked = urllib.request.Request(f"{url}/v1/audio/speech", body, {"Content-Type": "application/json"})  # noqa: S310
    with urllib.request.urlopen(asked, timeout=PATIENCE) as response:  # noqa: S310 - our own server
        samples = np.frombuffer(response.read(), dtype="<i2")
    silence = np.zeros(rate // 2, dtype=np.int16)
    resampled = soxr.resample(samples, 24_000, rate)
    return np.concatenate([silence, resampled, silence]).astype("<i2").tobytes()


def recording(url: str, text: str, file: Path) -> Path:
    """The text in the server's voice, as a WAV file with two seconds of silence before it and 30 behind it."""
    with wave.open(str(file), "wb") as writer:
        writer.setparams((1, 2, 24_000, 0, "NONE", ""))
        writer.writeframes(bytes(48_000 * 2) + spoken(url, text, 24_000) + bytes(48_000 * 30))
    return file


def words(url: str, pcm: bytes, rate: int) -> str:
    """What the server hears in PCM, mono, 16 bits: lower case, without punctuation."""
    with io.BytesIO() as file:
        with wave.open(file, "wb") as writer:
            writer.setparams((1, 2, rate, 0, "NONE", ""))
            writer.writeframes(pcm)
        data = file.getvalue()
    form = _form({"response_format": "json", "language": "en"}, "speech.wav", data, "boundary")
    target = Target(url, None, None, {})
    with send(target, "/v1/audio/transcriptions", form, "multipart/form-data; boundary=boundary") as response:
        return plain(json.loads(response.read())["text"])


def plain(text: str) -> str:
    """A text in lower case without punctuation."""
    return " ".join("".join(c if c.isalnum() else " " for c in text.lower()).split())
