"""``loquent serve --on ray``: starts or joins a Ray cluster, and keeps the application there until a signal.

SIGHUP reads the configuration again and replaces the replicas one by one. SIGTERM and SIGINT drain them all.
"""

import os
import queue
import signal
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from types import FrameType
from typing import Any, get_args

from server import logs
from server.app import listen
from server.auth import Refusal, check_exposure
from server.cluster.settings import PartKind
from server.commands import streams
from server.commands.failure import Exit, Failure
from server.config import ConfigError, Configuration, read
from server.tls import certificate_of

NAME = "loquent"  # of the application
OBJECT_STORE = 128 * 1024 * 1024  # bytes; little goes through it
SPARE_CPUS = 4.0  # beyond what the replicas take: Ray counts them, and starts nothing twice where there is no room
PROXY_KEEP_ALIVE = 75
# No usage statistics: Ray talks to its cluster alone. What other programs take of this machine's memory is no reason to
# kill replicas.
ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_memory_monitor_refresh_ms": "0",
    "RAY_DEDUP_LOGS": "0",
    "RAY_COLOR_PREFIX": "0",
    "FORWARDED_ALLOW_IPS": "",  # of Serve's proxies; [server] trusted_proxies says whose headers are believed
}


class _Interrupted(BaseException):
    """A signal came before the application was ready."""


def serve_on_ray(file: str | None, values: Mapping[str, Any], address: str | None) -> bool:
    """Serve until SIGTERM or SIGINT, on the cluster at ``address`` or one of this machine's own.

    ``file`` and ``values`` are the configuration's, as ``config.read`` takes them. Returns whether the user interrupted
    it before it was ready. Raises: Failure with what to do.
    """
    if find_spec("ray") is None or find_spec("ray.serve") is None or find_spec("starlette") is None:
        raise Failure(Exit.USAGE, "--on ray needs Ray Serve: pip install 'loquent[ray]'")
    given = {key: value for key, value in values.items() if value is not None}
    os.environ.update({name: os.environ.get(name, value) for name, value in ENVIRONMENT.items()})  # before Ray reads it
    configuration = _checked(file, given)
    logs.configure(configuration.settings.server.log_level)
    begun, local = time.monotonic(), address is None
    signals = _Signals()
    try:
        _start(configuration, address)
        with signals.caught():
            url = _proxies(configuration)
            _deploy(file, given, local=local)
            streams.announce(f"Loquent listens on {url} (Ray Serve, ready in {time.monotonic() - begun:.1f} s)")
            while signals.next() is signal.SIGHUP:
                _again(file, given, local=local)
    except _Interrupted:
        return signals.last is signal.SIGINT
    finally:
        _end(local=local)
    return False


def _checked(file: str | None, values: Mapping[str, Any]) -> Configuration:
    from server.cluster.application import application

    try:
        configuration = read(file, values)
        check_exposure(configuration.settings.server)
        certificate_of(configuration.settings.server)
        application({"config": file, **values})
    except (ConfigError, Refusal) as error:
        raise Failure(Exit.USAGE, str(error)) from None
    return configuration


def _start(configuration: Configuration, address: str | None) -> None:
    """Start a cluster, or join the one at the address. Raises: Failure."""
    import ray

    logging = {"logging_level": "warning", "log_to_driver": True}
    if address is not None:
        try:
            ray.init(address=address, **logging)
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise Failure(Exit.CONNECTION, f"There is no Ray cluster at {address}: {error}") from None
        return
    replicas = configuration.settings.ray
    kinds = [(replicas.gateways[1], replicas.gateway_cpus), (replicas.engines[1], replicas.engine_cpus)]
    kinds += [(getattr(replicas, each)[1], getattr(replicas, f"{each}_cpus")) for each in get_args(PartKind)]
    folder = {"_temp_dir": temporary} if (temporary := os.environ.get("RAY_TMPDIR")) else {}
    # One more of each than may run at a time: a rolling update starts the new one first.
    cpus = sum((most + 1) * each for most, each in kinds if most) + SPARE_CPUS
    ray.init(num_cpus=int(cpus) + 1, include_dashboard=False, object_store_memory=OBJECT_STORE, **folder, **logging)


def _proxies(configuration: Configuration) -> str:
    """Start Serve and its proxy; returns the address that clients use. Raises: Failure where the port is taken."""
    from ray import serve

    server = configuration.settings.server
    try:
        listener = listen(server.host, server.port)
    except OSError as error:
        raise Failure(Exit.RUN_TIME, f"Port {server.port} on {server.host} can't be used: {error.strerror}.") from None
    port = listener.getsockname()[1]
    listener.close()
    options = {"host": server.host, "port": port, "keep_alive_timeout_s": PROXY_KEEP_ALIVE}
    if server.tls:
        options |= {"ssl_certfile": server.tls_cert, "ssl_keyfile": server.tls_key}
    serve.start(http_options=options, proxy_location="HeadOnly" if server.loopback else "EveryNode")
    host = f"[{server.host}]" if ":" in server.host else server.host
    return f"{'https' if server.tls else 'http'}://{host}:{port}"


def _deploy(file: str | None, values: Mapping[str, Any], *, local: bool) -> None:
    """Put the application there, or its new version; returns once it serves. Raises: Failure."""
    from ray import serve

    from server.cluster.application import application

    host = {"host": "127.0.0.1"} if local else {}
    try:
        serve.run(application({"config": file, **values, **host}), name=NAME, route_prefix="/")
    except RuntimeError as error:
        raise Failure(Exit.RUN_TIME, f"The application does not start: {error}") from None


def _again(file: str | None, values: Mapping[str, Any], *, local: bool) -> None:
    """Replace the replicas, with the configuration as it is now; one that can't be used changes nothing."""
    try:
        _deploy(file, values, local=local)
    except (ConfigError, Failure) as error:
        print(f"loquent: the replicas stay as they are: {error}", file=sys.stderr)
    else:
        streams.announce("The replicas are replaced")


def _end(*, local: bool) -> None:
    """Drain the replicas, and end what was started."""
    import ray
    from ray import serve

    if not ray.is_initialized():
        return
    try:
        serve.delete(NAME)  # before the proxies end: replies in flight go on to their clients
    except TimeoutError:
        print("loquent: replies did not finish in time, and are cut", file=sys.stderr)
    if local:
        serve.shutdown()
    ray.shutdown()


class _Signals:
    """The signals of this process: those to end take effect at once while the application is being deployed."""

    def __init__(self) -> None:
        self.last: signal.Signals | None = None
        self._asked: queue.SimpleQueue[signal.Signals] = queue.SimpleQueue()
        self._waiting = False

    def next(self) -> signal.Signals:
        """Wait for the next one."""
        self._waiting = True
        try:
            return self._asked.get()
        finally:
            self._waiting = False

    @contextmanager
    def caught(self) -> Iterator[None]:
        """Catch them while the block runs; Ray sets handlers of its own when it starts."""
        before = {each: signal.signal(each, self._note) for each in (signal.SIGHUP, signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for each, handler in before.items():
                signal.signal(each, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        came = signal.Signals(number)
        if self._waiting or came is signal.SIGHUP:
            self._asked.put(came)
        else:
            self.last = came
            raise _Interrupted
