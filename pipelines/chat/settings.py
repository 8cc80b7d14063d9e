"""What ``[chat]`` in ``config.toml`` may say."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Temperature = Annotated[float, Field(ge=0, le=2)]
TopP = Annotated[float, Field(gt=0, le=1)]
TopK = Annotated[int, Field(ge=0, lt=2**31)]
MinP = Annotated[float, Field(ge=0, le=1)]
RepetitionPenalty = Annotated[float, Field(gt=0, le=2)]


class ChatSettings(BaseModel):
    """The language model: which one, where it runs, and how much it may do."""

    model_config = ConfigDict(frozen=True, extra="forbid")

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
