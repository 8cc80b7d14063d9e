"""Sound in the formats that clients ask for: written as a stream, read by another library."""

import io

import av
import numpy as np
import pytest

from pipelines.events import AUDIO_RATE
from pipelines.speech.formats import FORMATS, AudioFormatName, Encoder

SECONDS = 1.5
TONE = (0.5 * np.sin(np.arange(int(SECONDS * AUDIO_RATE)) * (2 * np.pi * 440 / AUDIO_RATE)) * 32767).astype("<i2")


@pytest.mark.parametrize("name", FORMATS)
def test_a_stream_is_a_file_that_others_can_read(name: AudioFormatName) -> None:
    encoder = Encoder(name)
    pcm = TONE.tobytes()
    pieces = [encoder.encode(pcm[at : at + 4800]) for at in range(0, len(pcm), 4800)] + [encoder.end()]
    assert sum(map(bool, pieces)) > 1, "it comes while it is made"
    data = b"".join(pieces)
    if name == "pcm":
        assert data == pcm
        return
    with av.open(io.BytesIO(data), mode="r") as file:
        frames = [frame.to_ndarray().reshape(-1) for frame in file.decode(audio=0)]
        rate = file.streams.audio[0].rate
    sound = np.concatenate(frames).astype(np.float64)
    if name in ("wav", "flac"):
        assert (rate, sound.tolist()) == (AUDIO_RATE, TONE.tolist())
        return
    assert len(sound) / rate == pytest.approx(SECONDS, abs=0.15)
    middle = sound[len(sound) // 3 : 2 * len(sound) // 3]
    loudest = np.abs(np.fft.rfft(middle * np.hanning(len(middle)))).argmax() * rate / len(middle)
    assert loudest == pytest.approx(440, abs=3)


@pytest.mark.parametrize("name", FORMATS)
def test_nothing_at_all_is_a_file_too(name: AudioFormatName) -> None:
    encoder = Encoder(name)
    assert isinstance(encoder.end(), bytes)
