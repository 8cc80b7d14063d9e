"""What ``[chat]`` in ``config.toml`` may say."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from pipelines.chat.tasks import Tasks
from pipelines.chat.upstream.settings import UpstreamSettings

Temperature = Annotated[float, Field(ge=0, le=2)]
TopP = Annotated[float, Field(gt=0, le=1)]
TopK = Annotated[int, Field(ge=0, lt=2**31)]
MinP = Annotated[float, Field(ge=0, le=1)]
RepetitionPenalty = Annotated[float, Field(gt=0, le=2)]


class ChatSettings(BaseModel):
    """The language model: which one, where it runs, and how much it may do."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    engine: Literal["builtin", "openai"] = "builtin"
    model: Annotated[str, Field(min_length=1)] = "smollm2-135m-instruct"
    device: Annotated[str, Field(min_length=1)] = "auto"
    dtype: Literal["auto", "bfloat16", "float32"] = "auto"
    weights: Literal["auto", "exact"] = "auto"
    threads: Annotated[int, Field(ge=0)] = 0
    context: Annotated[int, Field(ge=16)] = 2048
    overflow: Literal["error", "trim"] = "error"
    max_tokens: Annotated[int, Field(ge=1)] = 512
    temperature: Temperature | Literal["model"] = "model"
    top_p: TopP | Literal["model"] = "model"
    top_k: TopK | Literal["model"] = "model"
    min_p: MinP | Literal["model"] = "model"
    repetition_penalty: RepetitionPenalty | Literal["model"] = "model"
    repetition_prompt: bool | Literal["model"] = "model"
    tools: Literal["auto", "guided", "native"] = "auto"
    streams: Annotated[int, Field(ge=1)] = 32
    kept: Annotated[int, Field(ge=0)] = 32
    waiting: Annotated[int, Field(ge=0)] = 256
    waiting_tokens: Annotated[int, Field(ge=1)] = 262144
    tasks: Tasks = {}
    upstream: UpstreamSettings = UpstreamSettings()

    @model_validator(mode="after")
    def _has_an_upstream(self) -> "ChatSettings":
        if self.engine == "openai":
            if not self.upstream.urls:
                raise ValueError('engine = "openai" needs the address of a server: [chat.upstream] urls')
            if self.repetition_prompt != "model":
                raise ValueError('repetition_prompt has no form that another server understands: leave it at "model"')
        return self

    @property
    def at_once(self) -> int:
        """Replies that are made at a time, at most: ``streams`` by each server that makes them."""
        return self.streams * (max(len(self.upstream.urls), 1) if self.engine == "openai" else 1)
