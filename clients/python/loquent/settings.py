"""The settings of a session."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Settings:
    """How a session replies. What is ``None`` is as the server has it."""

    instructions: str | None = None  # the system prompt
    spoken: bool = False  # whether replies are spoken too
    voice: str | None = None
    speed: float | None = None  # 0.25 to 1.5
    max_tokens: int | None = None  # of a reply
    temperature: float | None = None  # 0 to 2
    seed: int | None = None
    tools: Sequence[Mapping[str, Any]] = ()  # functions: {"type": "function", "name": …, "parameters": JSON schema}
    verdicts: bool = False  # whether to report what screening found; the server must allow it
    pictures: bool | None = None  # whether replies come with pictures
    task: str | None = None  # of the server's ``[chat.tasks]``, for models that rewrite one text
    push_to_talk: bool = False  # the program, not the server, says when the user has finished speaking

    def to_event(self) -> dict[str, Any]:
        """The session of a ``session.update`` event, without its type."""
        sampling = _given(temperature=self.temperature, seed=self.seed)
        extensions = _given(
            sampling=sampling or None, verdicts=self.verdicts or None, image=self.pictures, task=self.task
        )
        session = _given(
            instructions=self.instructions,
            max_output_tokens=self.max_tokens,
            tools=[dict(tool) for tool in self.tools] or None,
            loquent=extensions or None,
        )
        session["output_modalities"] = ["audio" if self.spoken else "text"]
        audio: dict[str, Any] = {}
        if self.push_to_talk:
            audio["input"] = {"turn_detection": None, "transcription": {"model": "whisper-1"}}
        if self.spoken:
            audio["output"] = _given(voice=self.voice, speed=self.speed)
        return session | ({"audio": audio} if audio else {})


def _given(**fields: Any) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}
