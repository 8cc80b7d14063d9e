"""The deployments: gateways, chat engines, parts, and the directory by which they find one another."""

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

import ray
from ray import serve

from pipelines.build import build
from pipelines.chat.upstream.stage import UpstreamStage
from pipelines.part import Shared
from server.cluster.bridge import Bridge
from server.cluster.guard import BRIDGE, FORGET, TENANT
from server.cluster.inner import Inner, engine_of, gateway_of, only
from server.cluster.members import REGISTER_SECONDS, Directory, Kind, Member, View
from server.cluster.parts.elsewhere import Elsewhere
from server.cluster.parts.here import here, parts_of
from server.cluster.parts.wire import PATH
from server.cluster.routes import Routes, Target
from server.cluster.scaling import ONGOING
from server.cluster.settings import PartKind
from server.config import Configuration, read

log = logging.getLogger(__name__)

DIRECTORY_SECONDS = 3.0  # that the directory has to answer


@dataclass(frozen=True, slots=True)
class Recipe:
    """From what a replica reads its configuration, on its own machine: secrets stay in its environment."""

    file: str | None = None
    values: dict[str, Any] = field(default_factory=dict)  # dotted keys, as on the command line
    digest: str = ""  # of the whole: Serve replaces the replicas where it has changed
    host: str = ""  # that replicas listen on; "": the address of their machine

    def read(self) -> Configuration:
        """Raises: ConfigError."""
        return read(self.file, self.values)

    @property
    def address(self) -> str:
        """Of this machine, by which the cluster's others reach it."""
        return self.host or str(ray.util.get_node_ip_address())


class DirectoryReplica:
    """See ``members.Directory``."""

    def __init__(self) -> None:
        self._directory = Directory()

    async def register(self, member: Member) -> View:
        """Note that a replica is there, and say who is."""
        return self._directory.register(member)

    async def leave(self, id: str) -> None:
        """A replica has ended."""
        self._directory.leave(id)


class Membership:
    """Registers a replica again and again, and passes on what it learns of the others."""

    def __init__(
        self, directory: Any, member: Member, learn: Callable[[View], None], leave: Callable[[], None]
    ) -> None:
        self.member = member
        self._directory = directory
        self._learn = learn
        self._leave = leave
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin, on the running loop."""
        self._task = asyncio.create_task(self._run(), name="membership")

    async def close(self) -> None:
        """Leave the directory."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        with suppress(Exception):  # it may have ended before
            async with asyncio.timeout(DIRECTORY_SECONDS):
                await self._directory.leave.remote(self.member.id)

    async def _run(self) -> None:
        reached = True
        while True:
            if not self.member.leaving and is_leaving():
                self.member = replace(self.member, leaving=True)
                self._leave()
            try:
                async with asyncio.timeout(DIRECTORY_SECONDS):
                    self._learn(await self._directory.register.remote(self.member))
                reached = True
            except Exception as error:  # the directory may be starting anew; what was learned holds until then
                if reached:
                    log.warning("the directory of replicas does not answer: %s", type(error).__name__)
                reached = False
            await asyncio.sleep(REGISTER_SECONDS)


class _Replica:
    """What replicas have in common, but for the directory's."""

    def __init__(self, kind: Kind, inner: Inner, directory: Any) -> None:
        self.inner = inner
        member = Member(serve.get_replica_context().replica_tag, kind, inner.url, inner.secret)
        self.membership = Membership(directory, member, self.learn, self.leave)

    def learn(self, view: View) -> None:
        """Take note of who is in the cluster."""

    def leave(self) -> None:
        """Serve ends this replica: take nothing new, finish what is in progress."""
        self.inner.leave()

    async def check_health(self) -> None:
        """Raises: RuntimeError where the server has ended, so that Serve replaces the replica."""
        if not self.inner.healthy and not self.membership.member.leaving:
            raise RuntimeError("the server of this replica has ended")

    async def close(self) -> None:
        """End what is left; everything acknowledged is stored then."""
        await self.inner.stop()
        await self.membership.close()


class GatewayReplica(_Replica):
    """The whole server but its language model, and the parts that are elsewhere, behind a bridge that Serve's proxies
    speak to."""

    async def __init__(  # type: ignore[misc]
        self, recipe: Recipe, directory: Any, engines: Any = None, *parts: Any
    ) -> None:
        """``engines`` are deployed with it; without them, the model is where ``[chat.upstream]`` says. ``parts`` are
        here only to be deployed, too: the configuration says which there are."""
        self._finds_engines = engines is not None
        configuration = gateway_of(recipe.read(), own=engines is not None)
        self._elsewhere = Elsewhere(configuration.settings, parts_of(configuration.settings))
        pipeline = build(
            configuration.parts, Shared(self._elsewhere.seams, self._elsewhere.why_not), self._elsewhere.part
        )
        super().__init__("gateway", Inner(configuration, recipe.address, pipeline), directory)
        self.routes = Routes()
        self.bridge = Bridge(self.routes)
        self.routes.holds = self.inner.holds
        self._engines: tuple[Target, ...] = ()
        self._telling: set[asyncio.Task[None]] = set()  # bounded by engines times deletions of ``TELL_SECONDS``
        if self._chat is not None:
            self._chat.on_forget = self._forget
        self.membership.start()
        await self.inner.start()
        self.routes.own = self.membership.member.target

    def __serve_build_asgi_app__(self) -> Bridge:
        """What Serve calls with each request."""
        return self.bridge

    def learn(self, view: View) -> None:
        """See ``_Replica``."""
        own = self.membership.member.id
        self.routes.others = tuple(each.target for each in view.of("gateway") if each.id != own)
        self._engines = tuple(each.target for each in view.of("engine"))
        self._elsewhere.learn(view)
        if self._chat is not None and self._finds_engines:
            engines = {f"{each.url}/v1": {BRIDGE: each.secret} for each in view.of("engine") if not each.leaving}
            self._chat.change(engines, TENANT)

    @property
    def _chat(self) -> UpstreamStage | None:
        return self.inner.pipeline.find(UpstreamStage)

    def _forget(self, tenants: tuple[str, ...]) -> None:
        """A conversation was deleted: its prompts go from the engines' caches, too."""
        for engine in self._engines:
            telling = asyncio.create_task(self.bridge.tell(engine, FORGET, tenants), name="forget")
            self._telling.add(telling)
            telling.add_done_callback(self._telling.discard)

    def leave(self) -> None:
        """See ``_Replica``."""
        self.routes.own = None
        super().leave()

    async def __del__(self) -> None:
        await self.close()
        if self._telling:
            await asyncio.wait(self._telling)
        await self.bridge.close()


class EngineReplica(_Replica):
    """A chat engine behind OpenAI's API, which the gateways call."""

    async def __init__(self, recipe: Recipe, directory: Any) -> None:  # type: ignore[misc]
        super().__init__("engine", Inner(engine_of(recipe.read(), recipe.address), recipe.address), directory)
        await self.inner.start()
        self.membership.start()

    def record_autoscaling_stats(self) -> dict[str, float]:
        """How much it has to do; Serve asks."""
        backend = self.inner.backend
        return {ONGOING: 0.0 if backend is None else float(backend.metrics.running)}

    async def __del__(self) -> None:
        await self.close()


class PartReplica(_Replica):
    """A part that gateways ask: embedding with screening, pictures, or speech."""

    async def __init__(self, kind: PartKind, recipe: Recipe, directory: Any) -> None:  # type: ignore[misc]
        configuration = recipe.read()
        part = here(kind, configuration.settings)
        self._load = part.load
        alone = only(configuration, recipe.address, ())
        super().__init__(kind, Inner(alone, recipe.address, part.pipeline, {PATH: part.answering}), directory)
        await self.inner.start()
        self.membership.start()

    def record_autoscaling_stats(self) -> dict[str, float]:
        """How much it has to do; Serve asks."""
        return {ONGOING: float(self._load.ongoing)}

    async def __del__(self) -> None:
        await self.close()


def is_leaving() -> bool:
    """Whether Serve ends this replica. It says so to user code only once every request has ended, which a websocket
    does not by itself; so this looks at the actor (Ray 2.60). Where a later version has moved it, replicas drain when
    Serve's ``graceful_shutdown_timeout_s`` is over."""
    worker = ray._private.worker.global_worker
    replica = getattr(worker.actors.get(worker.actor_id), "_replica_impl", None)
    return bool(getattr(replica, "_shutting_down", False))
