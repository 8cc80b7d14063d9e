"""Helps a small model to choose a function: by how like the message is to what the functions are described to do.

A model of half a billion parameters fills in arguments well, and rarely knows when to call: of 60 requests it called
nothing unaided. Embeddings know that better; what was measured is in docs/decisions/0018.
"""

import re
from collections import OrderedDict
from collections.abc import Callable, Sequence

import numpy as np

from pipelines.embedding.interface import Embeds
from pipelines.embedding.passages import Floats, Passage
from pipelines.events import Message, Tool

SIMILAR = 0.25  # cosine, from which a function may be meant
NEAR = 0.05  # by so much less like the message, another function may be meant too
SENTENCES = 6  # the last ones of a message, which are compared besides the whole
LONGEST = 1000  # characters of a message's end that are read
CACHED = 1024  # embeddings of functions


class Chooser:
    """Chooses among functions for one server."""

    def __init__(self, embedder: Callable[[], Embeds | None]) -> None:
        self._embedder = embedder  # as it may come later
        self._known: OrderedDict[str, Floats] = OrderedDict()  # the most recently used last

    @property
    def ready(self) -> bool:
        """Whether it can choose now."""
        embedder = self._embedder()
        return embedder is not None and embedder.ready

    async def choose(self, messages: Sequence[Message], tools: Sequence[Tool], *, must: bool) -> tuple[Tool, ...]:
        """The functions that the last message may mean, the likeliest first; none where it means none, unless ``must``.

        Behind a function's result no function is called: the result is to be put into words.

        Raises: StageError when the message can't be embedded now.
        """
        asked = next((message.content for message in reversed(messages) if message.role == "user"), "")
        if not must and (not messages or messages[-1].role != "user"):
            return ()
        if not asked.strip():
            return tuple(tools) if must else ()
        functions = await self._functions(tools)
        texts = await self._embed(_texts(asked))
        scores = (functions @ texts.T).max(axis=1)
        best = float(scores.max())
        if best < SIMILAR and not must:
            return ()
        order = np.argsort(-scores, kind="stable")
        return tuple(tools[place] for place in order if scores[place] >= best - NEAR)

    async def _functions(self, tools: Sequence[Tool]) -> Floats:
        """Their embeddings, (N, D)."""
        texts = [f"{re.sub(r'[_.:/-]+', ' ', tool.name)}. {tool.description}"[:LONGEST] for tool in tools]
        missing = [text for text in dict.fromkeys(texts) if text not in self._known]
        if missing:
            self._known.update(zip(missing, await self._embed(missing), strict=True))
        found = np.stack([self._known[text] for text in texts])
        for text in texts:
            self._known.move_to_end(text)
        while len(self._known) > CACHED:
            self._known.popitem(last=False)
        return found

    async def _embed(self, texts: Sequence[str]) -> Floats:
        embedder = self._embedder()
        assert embedder is not None  # noqa: S101 - the caller looked at ``ready``
        return np.stack([each.whole for each in await embedder.embed([Passage(text) for text in texts])])


def _texts(message: str) -> list[str]:
    """The message's end, and its last sentences."""
    message = message[-LONGEST:].strip()
    sentences = [each.strip() for each in re.split(r"(?<=[.!?。！？])\s+|\n+", message) if each.strip()]
    return [message, *(sentences[-SENTENCES:] if len(sentences) > 1 else ())]
