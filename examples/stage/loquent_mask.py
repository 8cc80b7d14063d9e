"""A stage that masks e-mail addresses: the model never reads one, and its reply never shows one."""

import re
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from pipelines.events import Event, TextDelta, Turn
from pipelines.flow import Next
from pipelines.part import Part, Shared

ADDRESS = re.compile(r"[\w.+-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63})+")
LONGEST = 320  # characters of an address; a longer word is not held back


class MaskSettings(BaseModel):
    """What ``[stages.mask]`` may say."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    mask: Annotated[str, Field(min_length=1, max_length=40)] = "[e-mail address]"


def part(settings: MaskSettings, shared: Shared) -> Part:
    """The entry point: from the settings to the stage and its life cycle."""
    return Part("mask", MaskStage(settings.mask))


class MaskStage:
    """Changes the turn before the rest sees it, and the text that comes back."""

    def __init__(self, mask: str) -> None:
        self._mask = mask

    async def __call__(self, turn: Turn, next: Next) -> AsyncGenerator[Event]:
        """The reply to the masked turn, masked."""
        messages = tuple(replace(message, content=self._masked(message.content)) for message in turn.messages)
        held = ""  # the last word may be the beginning of an address
        async with aclosing(next(replace(turn, messages=messages))) as events:
            async for event in events:
                if isinstance(event, TextDelta):
                    text = held + event.text
                    word = re.search(r"\S*$", text)
                    end = word.start() if word and len(word[0]) <= LONGEST else len(text)
                    held = text[end:]
                    yield replace(event, text=self._masked(text[:end]), logprobs=())
                    continue
                if held:
                    yield TextDelta(self._masked(held), tokens=0)
                    held = ""
                yield event

    def _masked(self, text: str) -> str:
        return ADDRESS.sub(self._mask, text)
