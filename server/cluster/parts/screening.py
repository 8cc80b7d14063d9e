"""Screening, for gateways whose detector is elsewhere: both ends of it. Floods are the gateway's to see."""

import asyncio
from collections.abc import AsyncGenerator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from typing import Any

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from pipelines.anomaly.calibrate import HeadName
from pipelines.anomaly.checks import Finding
from pipelines.anomaly.judge import Findings, Judges, Look, not_ready
from pipelines.anomaly.text import normalise
from pipelines.anomaly.verdict import Verdict
from pipelines.events import StageError
from server.cluster.parts import embedding
from server.cluster.parts.answering import Load
from server.cluster.parts.asking import Replicas
from server.cluster.parts.wire import Frame, MalformedError

JUDGE = "judge"
VERDICTS: TypeAdapter[Verdict] = TypeAdapter(Verdict)
SHARES: TypeAdapter[dict[HeadName, float]] = TypeAdapter(dict[HeadName, float])


class _Asked(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    text: str
    document: bool
    bulk: bool
    findings: tuple[Finding, ...]


class ScreeningAnswers:
    """Judges for gateways, on a replica."""

    def __init__(self, judge: Judges, load: Load) -> None:
        self._judge = judge
        self._load = load

    async def __call__(self, request: Frame) -> AsyncGenerator[Frame]:
        """An answer to ``RemoteJudge``."""
        asked = _Asked.model_validate(request.head)
        with self._load.of(1):
            verdict = await self._judge.judge(
                asked.text, lambda text: asked.findings, document=asked.document, bulk=asked.bulk
            )
        yield Frame({"verdict": asdict(verdict)})


class RemoteJudge:
    """Has texts judged by replicas; see ``Judges``. Needs no PyTorch."""

    def __init__(self, replicas: Replicas) -> None:
        self.shares: Mapping[HeadName, float] = {}
        self._replicas = replicas
        self._worker = ThreadPoolExecutor(1, "floods")

    def learn(self, said: Any) -> None:
        """Take note of what a replica says of its detector. Raises: MalformedError."""
        try:
            self.shares = SHARES.validate_python(said)
        except ValidationError:
            raise MalformedError("a detector that can't be read") from None

    @property
    def ready(self) -> bool:
        """Whether a replica may be asked."""
        return self._replicas.ready

    async def start(self) -> None:
        """Wait for the first replica."""
        await self._replicas.start()

    async def close(self) -> None:
        """End every request."""
        self._worker.shutdown(wait=False, cancel_futures=True)
        await self._replicas.close()

    async def judge(self, text: str, look: Look | None, *, document: bool, bulk: bool) -> Verdict:
        """See ``Judges``."""
        findings: Findings = ()
        if look is not None:
            loop = asyncio.get_running_loop()
            findings = await loop.run_in_executor(self._worker, lambda: look(normalise(text)))
        asked = {"text": text, "document": document, "bulk": bulk, "findings": [asdict(each) for each in findings]}
        try:
            return await self._replicas.ask_once(JUDGE, asked, unpack)
        except StageError as error:
            raise (not_ready() if error.code == embedding.NOT_READY else error) from None


def unpack(frame: Frame) -> Verdict:
    """The verdict that was sent. Raises: MalformedError."""
    try:
        return VERDICTS.validate_python(frame.head.get("verdict"))
    except ValidationError:
        raise MalformedError("a verdict that can't be read") from None
