"""``describe``: what a Loquent server can do, in Wyoming's words."""

import asyncio
import logging
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from itertools import chain
from typing import Any

from wyoming.info import (
    AsrModel,
    AsrProgram,
    Attribution,
    HandleModel,
    HandleProgram,
    Info,
    TtsProgram,
    TtsVoice,
    WakeModel,
    WakeProgram,
)

from clients.streaming import request
from clients.target import Target
from clients.wyoming.waking import WakeWord
from loquent import LoquentError

log = logging.getLogger(__name__)

FRESH_SECONDS = 60.0  # for which an answer is good
ANSWER_SECONDS = 0.7  # that a peer waits for the server: Home Assistant gives up after one
LOQUENT = Attribution("Loquent", "")
WAKE = Attribution("microWakeWord", "https://github.com/kahrendt/microWakeWord")
ENGLISH_ONLY = (".en", "-en")  # endings of the names of recognisers
# What Whisper's multilingual models know.
TAGS = """
af am ar as az ba be bg bn bo br bs ca cs cy da de el en es et eu fa fi fo fr gl gu ha haw he hi hr ht hu hy id is it ja
jw ka kk km kn ko la lb ln lo lt lv mg mi mk ml mn mr ms mt my ne nl nn no oc pa pl ps pt ro ru sa sd si sk sl sn so sq
sr su sv sw ta te tg th tk tl tr tt uk ur uz vi yi yo zh yue
"""
WHISPER = TAGS.split()


class Describer:
    """Knows what the server can do, and asks again from time to time."""

    def __init__(
        self, target: Target, words: tuple[WakeWord, ...], *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._target = target
        self._words = words
        self._clock = clock
        self._models: list[dict[str, Any]] = []
        self._asked: float | None = None
        self._asking: asyncio.Task[None] | None = None

    async def info(self) -> Info:
        """The answer to ``describe``, within ``ANSWER_SECONDS``: where the server is slower, what it said last."""
        if self._asked is None or self._clock() > self._asked + FRESH_SECONDS or not self._models:
            if self._asking is None or self._asking.done():
                self._asking = asyncio.create_task(self._ask())
            await asyncio.wait([self._asking], timeout=ANSWER_SECONDS)
        return described(self._models, self._words, self._target.model)

    async def voice_in(self, language: str) -> str | None:
        """A voice that speaks this language, if the server has one."""
        wanted = _tag(language)
        spoken = [(voice.languages[0], voice.name) for each in (await self.info()).tts for voice in each.voices]
        exactly = (name for tag, name in spoken if tag == wanted)
        nearly = (name for tag, name in spoken if tag.partition("-")[0] == wanted.partition("-")[0])
        return next(chain(exactly, nearly), None)

    async def close(self) -> None:
        """End a question that is being asked."""
        if self._asking is not None:
            self._asking.cancel()
            await asyncio.gather(self._asking, return_exceptions=True)

    async def _ask(self) -> None:
        try:
            async with request(self._target, "/v1/models", method="GET") as answer:
                self._models = _entries(await answer.json())
            self._asked = self._clock()
        except LoquentError as error:
            log.warning("the server does not say what it can do: %s", error)


def _entries(answer: Any) -> list[dict[str, Any]]:
    data = answer.get("data") if isinstance(answer, dict) else None
    return [each for each in data if isinstance(each, dict)] if isinstance(data, list) else []


def described(models: list[dict[str, Any]], words: tuple[WakeWord, ...], chosen: str | None) -> Info:
    """What a server with these entries of ``/v1/models`` can do; nothing but wake words where there are none."""
    info = Info()
    for model in models:
        details = model.get("loquent") or {}
        if details.get("endpoint") == "transcriptions":
            info.asr.append(_hearing(str(model["id"])))
        elif details.get("endpoint") == "speech" and details.get("voices"):
            info.tts.append(_speaking(details["voices"]))
    if models:
        info.handle.append(_handling(chosen or str(models[0]["id"])))
    if words:
        info.wake.append(_waking(words))
    return info


def _about(name: str, description: str, attribution: Attribution = LOQUENT) -> dict[str, Any]:
    """The fields that everything in an answer has."""
    return {
        "name": name,
        "description": description,
        "attribution": attribution,
        "installed": True,
        "version": _version("loquent" if attribution is LOQUENT else "pymicro-wakeword"),
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _hearing(name: str) -> AsrProgram:
    languages = ["en"] if name.endswith(ENGLISH_ONLY) else WHISPER
    model = AsrModel(**_about(name, name), languages=languages)
    return AsrProgram(**_about("loquent", "Loquent"), models=[model], supports_transcript_streaming=True)


def _speaking(voices: list[dict[str, str]]) -> TtsProgram:
    found = [TtsVoice(**_about(each["name"], each["name"]), languages=[_tag(each["language"])]) for each in voices]
    return TtsProgram(**_about("loquent", "Loquent"), voices=found, supports_synthesize_streaming=True)


def _tag(language: str) -> str:
    """ "en-US" of "en-us" or "en_US"."""
    base, _, region = language.replace("_", "-").partition("-")
    return f"{base.lower()}-{region.upper()}" if region else base.lower()


def _handling(name: str) -> HandleProgram:
    model = HandleModel(**_about(name, name), languages=[])  # of any; what it knows depends on the model
    return HandleProgram(**_about("loquent", "Loquent"), models=[model], supports_handled_streaming=True)


def _waking(words: tuple[WakeWord, ...]) -> WakeProgram:
    models = [
        WakeModel(**_about(word.name, word.phrase, WAKE), languages=list(word.languages), phrase=word.phrase)
        for word in words
    ]
    return WakeProgram(**_about("micro-wake-word", "microWakeWord", WAKE), models=models)
