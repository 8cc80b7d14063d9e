"""The Serve application: which deployments there are, how many replicas each has, and how they end."""

import hashlib
from typing import Any

from ray import serve

from server.cluster.parts.here import at_once, parts_of
from server.cluster.replicas import DirectoryReplica, EngineReplica, GatewayReplica, PartReplica, Recipe
from server.cluster.settings import PartKind
from server.config import ConfigError, Settings, read

GATEWAY, ENGINE, DIRECTORY = "gateway", "engine", "directory"
END_SECONDS = 15.0  # beyond the drain, in which a replica ends before it is killed
HEALTH = {"health_check_period_s": 2.0, "health_check_timeout_s": 10.0}
UP_SECONDS = 5.0  # that the load must last before replicas are added
SURGE = 25  # per cent of the replicas
TARGET = 0.7  # of what a replica takes at a time, from which on there is to be another one
QUIET = {"log_level": "WARNING", "enable_access_log": False}
POLICY = {"policy_function": "server.cluster.scaling:engines_wanted"}


def application(arguments: dict[str, Any]) -> serve.Application:
    """The application, for ``serve run server.ray:application`` and for configurations of Serve and KubeRay.

    ``arguments``: ``config`` is the path of a ``config.toml`` that is on every machine of the cluster, ``host`` the
    address that replicas listen on (that of their machine); every other one is a dotted key, as ``chat.model``. Secrets
    come from the environment of the cluster's machines. Raises: ConfigError.
    """
    values = dict(arguments)
    file, host = values.pop("config", None), values.pop("host", "")
    configuration = read(file, values)
    named = None if configuration.file is None else str(configuration.file.resolve())
    return deployed(configuration.settings, Recipe(named, values, _digest(configuration.settings), host))


def deployed(settings: Settings, recipe: Recipe) -> serve.Application:
    """The deployments, bound to one another. Raises: ConfigError where what is configured can't be on Ray."""
    _check(settings)
    replicas = settings.ray
    directory = serve.deployment(
        DirectoryReplica,
        name=DIRECTORY,
        num_replicas=1,
        ray_actor_options={"num_cpus": 0},
        logging_config=QUIET,
        **HEALTH,
    ).bind()
    engine: Any = None
    if settings.chat.engine == "builtin":  # else the model is elsewhere, as the configuration says
        engine = serve.deployment(
            EngineReplica,
            name=ENGINE,
            ray_actor_options={"num_cpus": replicas.engine_cpus, "num_gpus": replicas.engine_gpus},
            max_ongoing_requests=settings.chat.streams,
            **_replicas(replicas.engines, settings.chat.streams, replicas.remove_after, {"policy": POLICY}),
            **_ending(settings),
        ).bind(recipe, directory)
    parts = [_part(kind, settings).bind(kind, recipe, directory) for kind in parts_of(settings)]
    return serve.deployment(
        serve.ingress()(GatewayReplica),
        name=GATEWAY,
        ray_actor_options={"num_cpus": replicas.gateway_cpus},
        max_ongoing_requests=replicas.gateway_requests,
        **_replicas(replicas.gateways, replicas.gateway_requests, replicas.remove_after, {}),
        **_ending(settings),
    ).bind(recipe, directory, engine, *parts)


def _part(kind: PartKind, settings: Settings) -> Any:
    """The deployment of a part."""
    many = at_once(settings)[kind]
    return serve.deployment(
        PartReplica,
        name=kind,
        ray_actor_options={"num_cpus": getattr(settings.ray, f"{kind}_cpus")},
        max_ongoing_requests=many,
        **_replicas(getattr(settings.ray, kind), many, settings.ray.remove_after, {"policy": POLICY}),
        **_ending(settings),
    )


def _ending(settings: Settings) -> dict[str, Any]:
    """How replicas that serve are watched, replaced and ended."""
    return {
        "graceful_shutdown_timeout_s": settings.server.drain + END_SECONDS,
        "graceful_shutdown_wait_loop_s": 0.2,
        # An update starts new replicas before it ends old ones: a quarter more, and at least one.
        "max_surge_percent": SURGE,
        "logging_config": QUIET,  # the server within has a log of its own
        **HEALTH,
    }


def _replicas(bounds: tuple[int, int], at_once: int, remove_after: float, policy: dict[str, Any]) -> dict[str, Any]:
    least, most = bounds
    if least == most:
        return {"num_replicas": least}
    scaling = {
        "min_replicas": least,
        "max_replicas": most,
        "target_ongoing_requests": max(at_once * TARGET, 1.0),
        "upscale_delay_s": UP_SECONDS,
        "downscale_delay_s": remove_after,
    }
    return {"autoscaling_config": scaling | policy}


def _check(settings: Settings) -> None:
    store = settings.history.store
    if settings.ray.gateways[1] > 1 and not store.startswith(("postgres://", "postgresql://")):
        text = "gateways share no memory: conversations must be in PostgreSQL, [history] store, or ray.gateways [1, 1]"
        raise ConfigError(f"ray.gateways: {text}.")


def _digest(settings: Settings) -> str:
    """What changes where the settings do. Secrets are no part of it."""
    return hashlib.sha256(settings.model_dump_json().encode()).hexdigest()[:16]
