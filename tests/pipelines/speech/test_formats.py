"""Sound in the formats that clients ask for: written as a stream, read by another library."""

import io
import wave

import av
import numpy as np
import pytest
import soundfile
from faster_whisper.audio import decode_audio
from numpy.typing import NDArray

from pipelines.events import AUDIO_RATE
from pipelines.speech.formats import FORMATS, AudioFormatName, Encoder

SECONDS = 1.5
TONE = (0.5 * np.sin(np.arange(int(SECONDS * AUDIO_RATE)) * (2 * np.pi * 440 / AUDIO_RATE)) * 32767).astype("<i2")


@pytest.mark.parametrize("name", FORMATS)
def test_a_stream_is_a_file_that_others_can_read(name: AudioFormatName) -> None:
    encoder = Encoder(name)
    pcm = TONE.tobytes()
    pieces = [encoder.encode(pcm[at : at + 4800]) for at in range(0, len(pcm), 4800)] + [encoder.end()]
    assert (sum(map(bool, pieces)) > 1) == (name != "flac"), "it comes while it is made, but for FLAC"
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


def speech_like(seconds: int) -> NDArray[np.int16]:
    """Tones that come and go, noise and silence: (N,), whose frames have different lengths in every codec."""
    at = np.arange(seconds * AUDIO_RATE) / AUDIO_RATE
    tone = np.sin(2 * np.pi * 220 * at + np.sin(3 * at)) * (0.5 + 0.5 * np.sin(2 * np.pi * 3 * at))
    sound = 0.4 * tone + 0.02 * np.random.default_rng(5).standard_normal(len(at))
    sound[(at % 5) < 1.5] = 0
    return (sound * 32767).astype("<i2")


def encoded(encoder: Encoder, sound: NDArray[np.int16]) -> list[bytes]:
    pcm = sound.tobytes()
    return [*(encoder.encode(pcm[at : at + 9600]) for at in range(0, len(pcm), 9600)), encoder.end()]


@pytest.mark.parametrize(("name", "padding"), [("mp3", 0.1), ("opus", 0.02), ("flac", 0.0), ("wav", 0.0)])
def test_libsndfile_reads_a_stream_to_its_end(name: AudioFormatName, padding: float) -> None:
    given = speech_like(20)
    data = b"".join(encoded(Encoder(name), given))
    sound, rate = soundfile.read(io.BytesIO(data), dtype="int16")
    assert rate == AUDIO_RATE
    assert 0 <= len(sound) - len(given) <= padding * AUDIO_RATE
    assert len(sound) == soundfile.info(io.BytesIO(data)).frames, "and its length is known before it is read"
    if not padding:
        assert np.array_equal(sound, given)
    heard = decode_audio(io.BytesIO(data), sampling_rate=AUDIO_RATE)
    assert len(heard) == pytest.approx(len(given), abs=padding * AUDIO_RATE)


@pytest.mark.parametrize("name", FORMATS)
def test_ffmpeg_reads_every_sample_of_a_stream(name: AudioFormatName) -> None:
    given = speech_like(20)
    data = b"".join(encoded(Encoder(name), given))
    if name == "pcm":
        assert data == given.tobytes()
        return
    with av.open(io.BytesIO(data), mode="r") as file:
        frames = [(frame.samples, frame.rate) for frame in file.decode(audio=0)]
    samples = sum(samples * AUDIO_RATE // rate for samples, rate in frames)
    assert len(given) <= samples <= len(given) + 0.1 * AUDIO_RATE


def test_pythons_own_reader_takes_a_wav_stream_whole() -> None:
    given = speech_like(20)
    data = b"".join(encoded(Encoder("wav"), given))
    with wave.open(io.BytesIO(data)) as file:
        assert (file.getframerate(), file.getnchannels(), file.getsampwidth()) == (AUDIO_RATE, 1, 2)
        assert file.readframes(file.getnframes()) == given.tobytes()


def test_every_frame_of_an_mp3_has_the_same_bit_rate() -> None:
    with av.open(io.BytesIO(b"".join(encoded(Encoder("mp3"), speech_like(20)))), mode="r") as file:
        packets = [packet for packet in file.demux(audio=0) if packet.size]
        sizes = {packet.size for packet in packets}
    assert len(packets) > 800
    assert max(sizes) - min(sizes) <= 1, "but for a byte of padding"


def test_flac_that_is_longer_than_may_wait_comes_while_it_is_made() -> None:
    given = speech_like(6)
    pieces = encoded(Encoder("flac", held=50_000), given)
    first = next(piece for piece in pieces if piece)
    assert 50_000 < len(first) < sum(map(len, pieces)) / 2
    assert sum(map(bool, pieces)) > 10
    with av.open(io.BytesIO(b"".join(pieces)), mode="r") as file:
        sound = np.concatenate([frame.to_ndarray().reshape(-1) for frame in file.decode(audio=0)])
    assert np.array_equal(sound, given)


@pytest.mark.parametrize("name", FORMATS)
def test_nothing_at_all_is_a_file_too(name: AudioFormatName) -> None:
    encoder = Encoder(name)
    assert isinstance(encoder.end(), bytes)
