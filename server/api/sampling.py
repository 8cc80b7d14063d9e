"""The parameters that decide how tokens are drawn, the same for every request that the language model answers."""

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from pipelines.events import Sampling
from server.parameters import (
    LogitBias,
    MinP,
    Penalty,
    RepetitionPenalty,
    Seed,
    StopStrings,
    Temperature,
    TopK,
    biases,
)

SEEDS = 2**64


def _as_list(given: Any) -> Any:
    if isinstance(given, str):
        return [given] if given else []
    return given


class SamplingFields(BaseModel):
    """OpenAI's parameters, and those that other servers have too."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    temperature: Temperature | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    seed: Seed | None = None
    stop: Annotated[StopStrings, BeforeValidator(_as_list, json_schema_input_type=str | StopStrings)] | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    logit_bias: LogitBias | None = None
    top_k: TopK | None = None
    min_p: MinP | None = None
    repetition_penalty: RepetitionPenalty | None = None
    ignore_eos: bool | None = None

    def sampling(self, *, max_tokens: int | None, logprobs: int | None, choice: int = 0) -> Sampling:
        """How to draw the tokens of one of several choices: each has a seed of its own."""
        greedy = self.top_p == 0  # nothing but the likeliest token is left
        return Sampling(
            temperature=0.0 if greedy else self.temperature,
            top_p=None if greedy else self.top_p,
            seed=None if self.seed is None else (self.seed + choice + SEEDS // 2) % SEEDS - SEEDS // 2,
            max_tokens=max_tokens,
            stop=tuple(self.stop or ()),
            top_k=self.top_k,
            min_p=self.min_p,
            repetition_penalty=self.repetition_penalty,
            presence_penalty=self.presence_penalty or 0.0,
            frequency_penalty=self.frequency_penalty or 0.0,
            logit_bias=biases(self.logit_bias),
            ignore_eos=bool(self.ignore_eos),
            logprobs=logprobs,
        )
