"""The settings of ``[limits]``."""

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from pipelines.redis_url import check

Seconds = Annotated[float, Field(gt=0)]
Bytes = Annotated[int, Field(ge=1024)]
Count = Annotated[int, Field(ge=0)]


class LimitSettings(BaseModel):
    """How much one connection may use, and how much one key, client secret and address in a time."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    rates: Literal["auto", "on", "off"] = "auto"
    store: Annotated[str, AfterValidator(check), Field(repr=False)] = ""
    key_requests: Count = 3000
    key_tokens: Count = 2_000_000
    key_daily_tokens: Count = 0
    secret_requests: Count = 60
    secret_tokens: Count = 60_000
    address_requests: Count = 120
    address_tokens: Count = 120_000
    address_connections: Count = 32
    session_seconds: Count = 3600
    http_connections: Count = 2048
    overhead: Annotated[float, Field(gt=0, le=1)] = 0.05
    connections: Annotated[int, Field(ge=1)] = 1000
    message_bytes: Bytes = 64 * 1024
    body_bytes: Bytes = 8 * 1024 * 1024
    audio_message_bytes: Bytes = 1024 * 1024
    audio_seconds: Annotated[float, Field(ge=1, le=600)] = 120.0
    audio_bytes: Annotated[int, Field(ge=0)] = 4 * 1024 * 1024
    upload_bytes: Bytes = 25 * 1024 * 1024
    items: Annotated[int, Field(ge=1)] = 500
    conversation_bytes: Bytes = 2 * 1024 * 1024
    responses: Annotated[int, Field(ge=1)] = 4
    outgoing_bytes: Bytes = 256 * 1024
    send_seconds: Seconds = 10.0
    heartbeat: Seconds = 20.0
    keep_alive: Seconds = 30.0
    sse_keep_alive: Seconds = 15.0
