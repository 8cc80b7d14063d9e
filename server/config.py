"""The configuration: ``config.toml`` < environment < command line, read once and frozen.

``config.toml`` in the project's root holds every key with its default and a comment; a test compares the two.
"""

import difflib
import hashlib
import ipaddress
import json
import os
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import platformdirs
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from pipelines.anomaly.settings import AnomalySettings
from pipelines.chat.settings import ChatSettings
from pipelines.chat.upstream.settings import KEY
from pipelines.image.settings import ImageSettings
from pipelines.listening.settings import ListeningSettings
from pipelines.part import settings_model
from pipelines.speech.settings import SpeechSettings
from pipelines.stages import StageUnavailableError, check, maker
from pipelines.tools.settings import ToolsSettings
from server.cluster.settings import RaySettings
from server.history.location import masked, without_password
from server.history.settings import HistorySettings
from server.limits.settings import LimitSettings as LimitSettings
from server.realtime.settings import SessionsSettings as SessionsSettings
from server.web.settings import WebSettings as WebSettings

ENV_PREFIX = "LOQUENT__"
SUBSECTIONS = ("chat.upstream",)  # sections within others, whose keys have origins of their own
# Whose values may hold a secret, and are not repeated.
SECRET = ("server.keys", "limits.store", "history.store", "image.store", "chat", "chat.upstream", "chat.upstream.key")
KEY_HASH = re.compile(r"sha256:[0-9a-f]{64}")

Seconds = Annotated[float, Field(gt=0)]
Bytes = Annotated[int, Field(ge=1024)]


class ConfigError(Exception):
    """The configuration is invalid; the message names the key and a valid value."""


def hash_key(key: str) -> str:
    """The hash of an API key, for ``config.toml``. Keys are random, so an unsalted hash can't be reversed."""
    return "sha256:" + hashlib.sha256(key.encode(errors="surrogateescape")).hexdigest()


def _hashes_only(keys: tuple[str, ...]) -> tuple[str, ...]:
    for key in keys:
        if not KEY_HASH.fullmatch(key):
            raise ValueError("holds a value that is not a hash; create a key and its hash with: loquent keys new")
    return keys


def _networks(given: tuple[str, ...]) -> tuple[str, ...]:
    for network in given:
        try:
            ipaddress.ip_network(network)
        except ValueError as error:
            raise ValueError(f'holds what is no network such as "10.0.0.0/8": {error}') from None
    return given


def _address(url: str) -> str:
    if url and not re.fullmatch(r"https?://[^/\s?#]+(?:/[^\s?#]*)?", url):
        raise ValueError('is no address such as "https://bot.example"')
    return url.rstrip("/")


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ServerSettings(_Section):
    """Where the server listens, and which clients it admits."""

    host: Annotated[str, Field(min_length=1)] = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 8700
    keys: Annotated[tuple[str, ...], AfterValidator(_hashes_only)] = ()
    keys_file: str = ""
    allowed_origins: tuple[str, ...] = ()
    allowed_hosts: tuple[str, ...] = ()
    trusted_proxies: Annotated[tuple[str, ...], AfterValidator(_networks)] = ()
    public_url: Annotated[str, AfterValidator(_address)] = ""
    tls_cert: str = ""
    tls_key: str = ""
    drain: Seconds = 30.0
    log_level: Literal["debug", "info", "warning", "error"] = "info"

    @model_validator(mode="after")
    def _both(self) -> "ServerSettings":
        if bool(self.tls_cert) != bool(self.tls_key):
            raise ValueError("tls_cert and tls_key must be set together")
        return self

    @property
    def tls(self) -> bool:
        """Whether the server speaks HTTPS, and no plain HTTP."""
        return bool(self.tls_cert)

    @property
    def loopback(self) -> bool:
        """Whether only this machine can reach the server."""
        try:
            return self.host == "localhost" or ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False  # a name, which may mean any address


DEFAULT_STAGES = ("speech", "anomaly", "image", "tools", "chat")


def _ordered(stages: tuple[str, ...]) -> tuple[str, ...]:
    for name in stages:
        check(name)
    if len(set(stages)) < len(stages):
        raise ValueError("names a stage twice")
    if not stages or stages[-1] != "chat":
        given = [name for name in stages if name not in DEFAULT_STAGES]
        right = [*given, *(name for name in DEFAULT_STAGES if name in (*stages, "chat"))]
        raise ValueError(f"is the order of the stages, outermost first, and ends with the model: {json.dumps(right)}")
    return stages


class PipelineSettings(_Section):
    """The stages of a turn, outermost first: each one wraps those that follow."""

    stages: Annotated[tuple[str, ...], AfterValidator(_ordered)] = DEFAULT_STAGES


class ModelsSettings(_Section):
    """How the model names that clients send are resolved."""

    unknown: Literal["default", "error"] = "default"
    aliases: tuple[str, ...] = (
        "default",
        "gpt-realtime",
        "gpt-realtime-mini",
        "gpt-4o-mini",
        "gpt-4o",
        "gpt-4.1",
        "gpt-4.1-mini",
        "gpt-5",
        "gpt-5-mini",
        "gpt-realtime-*",
        "gpt-audio*",
        "gpt-3.5-turbo*",
        "gpt-4",
        "gpt-4-turbo*",
        "gpt-4o-*",
        "gpt-4.1*",
        "gpt-5*",
        "gpt-6*",
    )
    embeddings: tuple[str, ...] = ("default", "text-embedding-3-*", "text-embedding-ada-002")
    moderations: tuple[str, ...] = ("default", "omni-moderation-*", "text-moderation-*")
    images: tuple[str, ...] = ("default", "loquent-mood", "gpt-image-*", "chatgpt-image-*", "dall-e-*")
    speech: tuple[str, ...] = ("default", "tts-1*", "gpt-4o-mini-tts*")
    transcriptions: tuple[str, ...] = ("default", "whisper-1", "gpt-4o-transcribe*", "gpt-4o-mini-transcribe*")


class ResponsesSettings(_Section):
    """What is stored of ``/v1/responses``, so that a client can go on where it left off."""

    items: Annotated[int, Field(ge=1)] = 500
    kept_bytes: Bytes = 64 * 1024 * 1024
    expires: Seconds = 3600.0


class WyomingSettings(_Section):
    """Wyoming beside the server, for Home Assistant."""

    port: Annotated[int, Field(ge=0, le=65535)] = 0
    host: Annotated[str, Field(min_length=1)] = "127.0.0.1"
    allow: tuple[str, ...] = ()


class Settings(BaseSettings):
    """Everything that can be configured."""

    model_config = SettingsConfigDict(
        frozen=True, extra="forbid", env_prefix=ENV_PREFIX, env_nested_delimiter="__", env_ignore_empty=True
    )

    server: ServerSettings = ServerSettings()
    limits: LimitSettings = LimitSettings()
    pipeline: PipelineSettings = PipelineSettings()
    models: ModelsSettings = ModelsSettings()
    sessions: SessionsSettings = SessionsSettings()
    responses: ResponsesSettings = ResponsesSettings()
    history: HistorySettings = HistorySettings()
    chat: ChatSettings = ChatSettings()
    speech: SpeechSettings = SpeechSettings()
    listening: ListeningSettings = ListeningSettings()
    anomaly: AnomalySettings = AnomalySettings()
    image: ImageSettings = ImageSettings()
    tools: ToolsSettings = ToolsSettings()
    web: WebSettings = WebSettings()
    wyoming: WyomingSettings = WyomingSettings()
    ray: RaySettings = RaySettings()
    stages: dict[str, dict[str, Any]] = {}  # of stages from other packages, by name

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Only what ``read`` passes in: it merges the sources and records where each value came from."""
        return (init_settings,)


Values = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Configuration:
    """The settings, the file they came from, and each value's origin."""

    settings: Settings
    file: Path | None
    origins: Mapping[str, str]  # "chat.model" -> "config.toml", "environment", "command line"; absent: the default
    stages: Mapping[str, BaseModel]  # the settings of each configured stage, outermost first

    @property
    def parts(self) -> Mapping[str, BaseModel]:
        """The settings of each part of the server: the stages, and what listens."""
        listening = self.settings.listening
        return {**self.stages, **({"listening": listening} if listening.model else {})}


def find_file(explicit: str | None) -> Path | None:
    """The configuration file: ``--config``, ``LOQUENT_CONFIG``, ``./config.toml``, the user's folder; or none.

    Raises: ConfigError when a file that was named does not exist.
    """
    for named, by in ((explicit, "--config"), (os.environ.get("LOQUENT_CONFIG"), "LOQUENT_CONFIG")):
        if named:
            if not Path(named).is_file():
                raise ConfigError(f"{by} names {named}, and there is no such file.")
            return Path(named)
    folder = Path(platformdirs.user_config_dir("loquent", appauthor=False))
    return next((path for path in (Path("config.toml"), folder / "config.toml") if path.is_file()), None)


def read(explicit: str | None = None, command_line: Mapping[str, Any] | None = None) -> Configuration:
    """Read every source; ``command_line`` maps dotted keys to values, ``None`` for what was not given.

    Raises: ConfigError that names the key, and the nearest right one where a key is unknown.
    """
    file = find_file(explicit)
    sources = (
        (str(file), _toml(file) if file else {}),
        ("environment", _environment()),
        (
            "command line",
            _nested({key: value for key, value in (command_line or {}).items() if value is not None}),
        ),
    )
    merged: Values = {}
    origins: dict[str, str] = {}
    for name, values in sources:
        _check_keys(values, name)
        _check_secrets(values, name)
        for key, value in _flat(values):
            _set(merged, key, value)
            origins[key] = name
    try:
        settings = Settings(**merged)
    except ValidationError as error:
        raise ConfigError("\n".join(_explain(problem, origins) for problem in error.errors())) from None
    return Configuration(settings, file, origins, stage_settings(settings, origins))


def stage_settings(settings: Settings, origins: Mapping[str, str] | None = None) -> dict[str, BaseModel]:
    """The settings of each configured stage, outermost first; those of other packages are checked by their own model.

    Raises: ConfigError that names the key.
    """
    found: dict[str, BaseModel] = {}
    for name in settings.pipeline.stages:
        if name in Settings.model_fields:
            found[name] = getattr(settings, name)
            continue
        try:
            found[name] = settings_model(maker(name)).model_validate(settings.stages.get(name, {}))
        except ValidationError as error:
            above = ("stages", name)
            problems = [{**problem, "loc": (*above, *problem["loc"])} for problem in error.errors()]
            raise ConfigError("\n".join(_explain(problem, origins or {}) for problem in problems)) from None
        except (StageUnavailableError, TypeError) as error:
            raise ConfigError(f"pipeline.stages: {error}") from None
    for name in settings.stages:
        if name not in found:
            raise ConfigError(f"stages.{name}: [pipeline] stages lacks {name!r}; add it, or remove this section.")
    return found


def show(configuration: Configuration) -> Iterator[tuple[str, Any, str]]:
    """Every key, its value and where it came from."""
    values = configuration.settings.model_dump(mode="json")
    values["stages"] = {
        name: each.model_dump(mode="json") for name, each in configuration.stages.items() if name not in values
    }
    values["history"]["store"] = masked(configuration.settings.history.store)
    for section in ("limits", "image"):
        values[section]["store"] = without_password(values[section]["store"])
    for key, value in _flat(values):
        yield key, value, configuration.origins.get(key, "default")


def _toml(file: Path) -> Values:
    try:
        return tomllib.loads(file.read_text(encoding="utf-8-sig"))  # some editors write a byte order mark
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{file} can't be read: {error}") from None


def _environment() -> Values:
    try:
        values = EnvSettingsSource(Settings)()
    except SettingsError as error:
        raise ConfigError(f'environment: {error}. A list is JSON there: ["one", "two"].') from None
    keys = values.get("server", {}).get("keys")
    if isinstance(keys, list):  # only the environment may hold a plain key; it is hashed here
        values["server"]["keys"] = [key if KEY_HASH.fullmatch(str(key)) else hash_key(str(key)) for key in keys]
    sections = {name.upper() for name in Settings.model_fields}
    for name in os.environ:
        if name.upper().startswith(ENV_PREFIX):
            section, _, key = name.upper().removeprefix(ENV_PREFIX).partition("__")
            if section not in sections or not key:
                raise ConfigError(
                    f"The environment variable {name} names no key; they look like {ENV_PREFIX}CHAT__MODEL."
                )
    return dict(values)


def _check_keys(values: Values, source: str) -> None:
    known = {key for key, _ in _flat(Settings.model_construct().model_dump())}
    for key, _ in _flat(values):
        if key not in known and not key.startswith("stages."):  # those are checked by the stage's own model
            near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
            raise ConfigError(f"{source}: there is no key {key!r}." + (f" Did you mean {near[0]!r}?" if near else ""))


def _check_secrets(values: Values, source: str) -> None:
    """Raises: ConfigError where a plain key is where others may read it."""
    if source != "environment" and any(key == "chat.upstream.key" and value for key, value in _flat(values)):
        raise ConfigError(f"{source}: chat.upstream.key may be set only in the environment: {KEY}.")


def _explain(problem: Any, origins: Mapping[str, str]) -> str:
    path = [str(part) for part in problem["loc"]]
    key = ".".join(path[: 3 if path[0] == "stages" or ".".join(path[:2]) in SUBSECTIONS else 2])
    value = problem.get("input")
    shown = "" if key in SECRET else f" (it is {value!r})"
    message = problem["msg"].removeprefix("Value error, ")
    return f"{origins.get(key, 'configuration')}: {key}: {message}{shown}."


def _flat(values: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys and their values: ``chat.model``, ``stages.NAME.key``."""
    for name, value in values.items():
        key = f"{above}.{name}" if above else str(name)
        if isinstance(value, Mapping) and (above in ("", "stages") or key in SUBSECTIONS):
            yield from _flat(value, key)
        else:
            yield key, value


def _nested(values: Mapping[str, Any]) -> Values:
    nested: Values = {}
    for key, value in values.items():
        _set(nested, key, value)
    return nested


def _set(values: Values, key: str, value: Any) -> None:
    *sections, name = key.split(".")
    for section in sections:
        values = values.setdefault(section, {})
    values[name] = value
