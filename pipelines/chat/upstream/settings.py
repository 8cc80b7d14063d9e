"""What ``[chat.upstream]`` in ``config.toml`` may say."""

import ipaddress
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr, field_serializer

Seconds = Annotated[float, Field(gt=0, le=86400)]
KEY = "LOQUENT__CHAT__UPSTREAM__KEY"  # the environment variable that holds the key


def _addresses(given: tuple[str, ...]) -> tuple[str, ...]:
    made = tuple(_address(url) for url in given)
    if len(set(made)) < len(made):
        raise ValueError("names an address twice")
    return made


def _address(url: str) -> str:
    """The address below which the endpoints are; one without a path means ``/v1``. Raises: ValueError."""
    wrong = 'holds what is no address such as "http://10.0.0.5:8000/v1"'
    try:
        parts = urlsplit(url.strip())
        known = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        raise ValueError(wrong) from None
    if parts.username is not None or parts.password is not None:
        raise ValueError(f"holds an address with a name or password; a key goes into {KEY}")
    if not known or parts.query or parts.fragment or any(sign.isspace() for sign in url.strip()):
        raise ValueError(wrong)
    return f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/') or '/v1'}"


def in_the_clear(url: str) -> bool:
    """Whether what is sent there can be read on the way: plain HTTP, and not to this machine."""
    parts = urlsplit(url)
    if parts.scheme == "https":
        return False
    try:
        return not ipaddress.ip_address(parts.hostname or "").is_loopback
    except ValueError:
        return parts.hostname != "localhost"


def _sendable(key: SecretStr) -> SecretStr:
    value = key.get_secret_value()
    if not value.isascii() or not value.isprintable() or " " in value:
        raise ValueError("holds what no HTTP header can: only printable ASCII without spaces")
    return key


class UpstreamSettings(BaseModel):
    """The servers that answer in the built-in engine's stead."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    urls: Annotated[tuple[str, ...], AfterValidator(_addresses), Field(max_length=64)] = ()
    model: str = ""
    models: dict[str, str] = {}  # from a name that clients ask for to the upstream's
    key: Annotated[SecretStr, AfterValidator(_sendable), Field(repr=False)] = SecretStr("")
    connect_timeout: Seconds = 5.0
    first_token_timeout: Seconds = 60.0
    token_timeout: Seconds = 30.0
    gather: Annotated[float, Field(ge=0, le=1)] = 0.08  # seconds; see ``gathering``
    retries: Annotated[int, Field(ge=0, le=10)] = 2

    @field_serializer("key")
    def _hidden(self, key: SecretStr) -> str:
        return "***" if key.get_secret_value() else ""
