"""What a gateway's parts ask, where replicas compute for them."""

from collections.abc import Mapping
from functools import partial
from typing import Any, cast

from pipelines.image.interface import not_ready as image_not_ready
from pipelines.metrics import gauges
from pipelines.part import Part
from server.cluster.members import Kind, View
from server.cluster.parts import embedding, image, speech
from server.cluster.parts.asking import Replicas
from server.cluster.parts.screening import RemoteJudge
from server.cluster.parts.wire import Frame
from server.cluster.settings import PartKind
from server.config import Settings


class Elsewhere:
    """The replicas of these parts, and the seams behind which they compute."""

    def __init__(self, settings: Settings, kinds: tuple[PartKind, ...]) -> None:
        self.seams: dict[str, Any] = {}  # as ``Shared`` has them
        self._settings = settings
        self._replicas: dict[Kind, Replicas] = {}
        make = {"embedding": self._embedding, "image": self._image, "speech": self._speech}
        for kind in kinds:
            self._replicas[kind] = make[kind]()

    def learn(self, view: View) -> None:
        """Take note of which replicas there are."""
        for kind, replicas in self._replicas.items():
            replicas.change(view.of(kind))

    def why_not(self, what: str) -> str:
        """Why what is behind this seam is not there; "" where it is."""
        kind: Kind = "embedding" if what == "screening" else cast(Kind, what)
        return self._replicas[kind].why_not

    @property
    def part(self) -> Part:
        """What is measured of them."""
        return Part(
            "replicas",
            None,
            required=False,
            metrics=(
                gauges("loquent_part_replicas", "Replicas of a part that answer.", "part", self._available),
                gauges("loquent_part_requests", "Requests to a part's replicas.", "part", self._requests),
            ),
        )

    def _available(self) -> Mapping[str, float]:
        return {kind: each.balancer.available for kind, each in self._replicas.items()}

    def _requests(self) -> Mapping[str, float]:
        return {kind: each.requests for kind, each in self._replicas.items()}

    def _embedding(self) -> Replicas:
        screens = "anomaly" in self._settings.pipeline.stages

        def learn(said: Frame) -> None:
            if screens:
                judge.learn(said.head.get("shares"))

        replicas = Replicas("embedding", learn, embedding.not_ready)
        judge = RemoteJudge(replicas)
        self.seams["embedding"] = partial(embedding.RemoteEmbedder, replicas=replicas)
        if screens:
            self.seams["screening"] = judge
        return replicas

    def _image(self) -> Replicas:
        replicas = Replicas("image", lambda said: painter.learn(said), image_not_ready)
        painter = image.RemotePainter(replicas, waiting=self._settings.image.waiting)
        self.seams["image"] = painter
        return replicas

    def _speech(self) -> Replicas:
        replicas = Replicas("speech", lambda said: workers.learn(said), speech.unheard)
        workers = speech.RemoteWorkers(replicas, self._settings.speech)
        self.seams["speech"] = workers
        return replicas
