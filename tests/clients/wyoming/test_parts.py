"""The adapter's pure parts: cutting text, converting sound, reading what the server can do, announcing it."""

import asyncio

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from zeroconf.asyncio import AsyncServiceBrowser, AsyncServiceInfo, AsyncZeroconf

from clients.pcm import Converter, FormatError
from clients.wyoming.announcing import SERVICE, addresses_of, announced
from clients.wyoming.info import described
from clients.wyoming.sentences import LONGEST, Cutter
from tests.support import PATIENCE

TEXT = st.text(st.sampled_from("aB1 .,!?\n。\"'é"), max_size=80)


@given(st.lists(TEXT, max_size=12))
def test_however_text_comes_each_character_is_spoken_once_and_in_order(pieces: list[str]) -> None:
    cutter = Cutter()
    assert "".join([*(cutter.add(piece) for piece in pieces), cutter.rest()]) == "".join(pieces)


@pytest.mark.parametrize(
    ("text", "whole"),
    [
        ("It is on. And", "It is on. "),
        ("The light is on. And", "The light is on. "),
        ("Dr. Who is e.g. 3.5 m tall at 5 p.m. on", ""),
        ("No. Tel. 5, Nov. 3, etc. and", ""),
        ("Really?! Yes", "Really?! "),
        ('"Stop!" he', '"Stop!" '),
        ("One line\nanother", "One line\n"),
        ("灯开了。门", "灯开了。"),
        ("The light is on.", ""),
    ],
)
def test_a_cut_is_where_a_sentence_surely_ends(text: str, whole: str) -> None:
    assert Cutter().add(text) == whole


def test_text_without_an_end_is_cut_between_words() -> None:
    assert Cutter().add("word " * LONGEST) == "word " * LONGEST
    assert len(Cutter().add("a" * (LONGEST + 1))) == LONGEST + 1


def tone(rate: int, seconds: float = 0.5) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    return 0.5 * np.sin(2 * np.pi * 440 * np.arange(round(rate * seconds)) / rate)


@pytest.mark.parametrize("rate", [8_000, 16_000, 24_000, 44_100])
@pytest.mark.parametrize("width", [1, 2, 3, 4])
@pytest.mark.parametrize("channels", [1, 2])
def test_sound_of_any_format_becomes_the_servers(rate: int, width: int, channels: int) -> None:
    samples = np.round(tone(rate) * ((1 << 8 * width - 1) - 1)).astype("<i4")
    mono = samples.view(np.uint8).reshape(-1, 4)[:, :width]
    pcm = np.repeat(mono[:, None, :], channels, axis=1).tobytes()
    converter = Converter(rate, width, channels, out=24_000)
    pieces = [converter.convert(pcm[begin : begin + 777]) for begin in range(0, len(pcm), 777)]
    heard = np.frombuffer(b"".join([*pieces, converter.end()]), dtype="<i2") / 32768
    expected = tone(24_000)
    assert abs(len(heard) - len(expected)) <= 2
    middle = slice(2_000, 10_000)
    assert np.abs(heard[middle] - expected[middle]).max() < (0.02 if width == 1 else 0.005)


@pytest.mark.parametrize("format", [(0, 2, 1), (500_000, 2, 1), (16_000, 8, 1), (16_000, 2, 0), (16_000, 2, 9)])
def test_a_format_that_sound_has_not_is_refused(format: tuple[int, int, int]) -> None:
    with pytest.raises(FormatError):
        Converter(*format, out=24_000)


def test_a_server_without_a_voice_or_ears_offers_neither() -> None:
    info = described([{"id": "tiny"}, {"id": "joe", "loquent": {"endpoint": "speech", "voices": []}}], (), None)
    assert (info.asr, info.tts, info.wake) == ([], [], [])
    assert info.handle[0].models[0].name == "tiny"


def test_speakers_are_voices_of_their_languages_and_english_ears_know_english_only() -> None:
    voices = [{"name": "af_nova", "language": "en-us"}, {"name": "ff_siwis", "language": "fr-fr"}]
    models = [
        {"id": "whisper-tiny.en", "loquent": {"endpoint": "transcriptions"}},
        {"id": "kokoro", "loquent": {"endpoint": "speech", "voices": voices}},
    ]
    info = described(models, (), None)
    assert info.asr[0].models[0].languages == ["en"]
    assert [(voice.name, voice.languages) for voice in info.tts[0].voices] == [
        ("af_nova", ["en-US"]),
        ("ff_siwis", ["fr-FR"]),
    ]


async def test_it_is_found_in_the_local_network() -> None:
    found: asyncio.Queue[str] = asyncio.Queue()

    def changed(zeroconf: object, service_type: str, name: str, state_change: object) -> None:
        found.put_nowait(name)

    finder = AsyncZeroconf(interfaces=["127.0.0.1"])
    try:
        async with asyncio.timeout(PATIENCE), announced(10_700, addresses_of("127.0.0.1")) as name:
            browser = AsyncServiceBrowser(finder.zeroconf, SERVICE, handlers=[changed])
            while await found.get() != name:
                pass
            info = AsyncServiceInfo(SERVICE, name)
            assert await info.async_request(finder.zeroconf, 3_000)
            assert (info.port, info.parsed_addresses()) == (10_700, ["127.0.0.1"])
            await browser.async_cancel()
    finally:
        await finder.async_close()


def test_an_adapter_on_every_address_is_announced_with_those_of_this_machine() -> None:
    assert all(not address.is_loopback for address in addresses_of("0.0.0.0"))  # noqa: S104 - nothing listens
    assert [str(address) for address in addresses_of("192.168.1.5")] == ["192.168.1.5"]
