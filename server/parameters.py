"""Types and bounds of sampling parameters, the same for the websocket and HTTP.

Every list that a client sends is ``fail_fast``: an error for each of 20,000 entries would stop the loop for 50 ms.
"""

from typing import Annotated

from pydantic import Field

Temperature = Annotated[float, Field(ge=0, le=2)]
TopP = Annotated[float, Field(gt=0, le=1)]
TopK = Annotated[int, Field(ge=0, lt=2**31)]
MinP = Annotated[float, Field(ge=0, le=1)]
Seed = Annotated[int, Field(ge=-(2**63), lt=2**63)]
StopString = Annotated[str, Field(min_length=1, max_length=256)]
StopStrings = Annotated[list[StopString], Field(max_length=16, fail_fast=True)]
RepetitionPenalty = Annotated[float, Field(ge=0.01, le=2)]  # logits are divided by it
Penalty = Annotated[float, Field(ge=-2, le=2)]
TokenId = Annotated[str, Field(pattern=r"^\d{1,9}$")]
Bias = Annotated[float, Field(ge=-100, le=100)]
LogitBias = Annotated[dict[TokenId, Bias], Field(max_length=300)]


def biases(asked: dict[str, float] | None) -> tuple[tuple[int, float], ...]:
    """Token ids and what to add to their logits; ids beyond the vocabulary are ignored."""
    return tuple((int(id), bias) for id, bias in (asked or {}).items())
