"""The anomaly stage: screens what a turn brings in, and decides what follows.

In ``shadow`` mode the turn goes on at once, and is screened once its first text is out and those of others, so that
none comes later; the verdict, if it is there by its deadline, is recorded, and changes nothing. In ``enforce`` mode the
turn waits for the verdict.
"""

import asyncio
import logging
import time
from collections import Counter, deque
from collections.abc import AsyncGenerator, Callable, Coroutine, Sequence
from contextlib import aclosing, suppress
from functools import partial
from typing import Any

import numpy as np

from pipelines.anomaly.calibrate import HEADS, HeadName
from pipelines.anomaly.checks import FloodLimits, Floods
from pipelines.anomaly.incoming import new_messages
from pipelines.anomaly.judge import Findings, Judges
from pipelines.anomaly.settings import AnomalySettings
from pipelines.anomaly.verdict import Action, Verdict, worst
from pipelines.events import Event, Finished, Message, Screened, StageError, TextDelta, TextDone, Turn, Usage
from pipelines.flow import Next
from pipelines.tracing import traced

log = logging.getLogger(__name__)

AT_ONCE = 128  # turns that are screened in the shadow of their replies; for more there is no verdict
MAKES_WAY = 1.5  # seconds that a shadow makes way for the first texts of its turn and of others
TOGETHER = 0.25  # seconds, at whose multiples shadows are screened: eight texts together take as long as four alone
LOOKS_AGAIN = 0.02  # seconds until it looks again whether somebody waits for one
ASKED = 32  # texts that are asked about at a time
RECENT = 1000  # verdicts by which drift is measured


class AnomalyStage:
    """A stage that screens the messages of turns. It also screens texts that the API asks about."""

    def __init__(
        self,
        judge: Judges,
        settings: AnomalySettings,
        *,
        urgent: Callable[[], bool] = lambda: False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.judge = judge
        self.settings = settings
        self._urgent = urgent  # whether somebody waits for the first text of a reply
        self._clock = clock
        self._floods = Floods(FloodLimits(settings.rate, settings.repeats))
        self._shadows: set[asyncio.Task[None]] = set()  # bounded by AT_ONCE
        self._closing = False
        self._broken = ""  # why it could not be started
        self._asked = 0  # texts of the API that are being screened
        self.on_verdict: Callable[[Verdict, Action, float], None] = lambda verdict, action, seconds: None
        self.failures: Counter[str] = Counter()  # screenings without a verdict, by why
        self._recent: deque[Verdict] = deque(maxlen=RECENT)

    async def start(self) -> None:
        """Load the detector. Raises: CalibrationError when it can't be trusted, what loading the models raises."""
        try:
            await self.judge.start()
        except Exception as error:
            self._broken = str(error)  # of the model or the detector's files, not of a message
            self.failures["not_started"] += 1
            raise

    async def close(self) -> None:
        """End what is in progress, and what judges."""
        self._closing = True
        for task in self._shadows:
            task.cancel()
        if self._shadows:
            await asyncio.wait(self._shadows)
        await self.judge.close()

    @property
    def waited_for(self) -> bool:
        """Whether turns wait until it is ready: in ``enforce`` mode, and with a configured detector."""
        return self.settings.mode == "enforce" or bool(self.settings.detector)

    @property
    def ready(self) -> bool:
        """Whether texts can be screened."""
        return self.judge.ready

    async def ask(self, text: str, *, document: bool = False) -> Verdict:
        """Screen a text of the API. Messages of turns come first, and the verdict is not counted.

        Raises: StageError when the detector is not ready, or too many ask; what a head raises.
        """
        if self._asked >= ASKED:
            raise StageError("overloaded", "server_overloaded", f"{ASKED} texts are being screened already.")
        self._asked += 1
        try:
            return await self._verdict(text, document=document, bulk=True)
        finally:
            self._asked -= 1

    async def screen(self, text: str, session: str = "", message_id: str = "", *, document: bool = False) -> Verdict:
        """Screen an input; ``session`` is its conversation, for rates and repetitions, "" where there is none.

        A message with an id counts once for these, however often it is screened. A ``document``, as a tool's result,
        is screened for instructions to the assistant, and counts for neither.

        Raises: StageError when the detector is not ready; what a head raises.
        """
        begun = self._clock()
        verdict = await self._verdict(text, session, message_id, document=document)
        if not document:  # which other heads judge
            self._recent.append(verdict)
        self.on_verdict(verdict, self.action(verdict), self._clock() - begun)
        return verdict

    async def _verdict(
        self, text: str, session: str = "", message_id: str = "", *, document: bool, bulk: bool = False
    ) -> Verdict:
        if self._broken:
            raise StageError("unavailable", "screening_failed", f"The anomaly detector can't be used: {self._broken}")
        look = partial(self._flood, session, message_id, self._clock()) if session and not document else None
        return await self.judge.judge(text, look, document=document, bulk=bulk)

    def _flood(self, session: str, message_id: str, begun: float, text: str) -> Findings:
        """What the rate and the repetitions of a session's messages say of this one; on the judge's thread."""
        return self._floods.check(session, text, begun, message_id)

    def action(self, verdict: Verdict) -> Action:
        """What the policy wants for this verdict."""
        return self.settings.action(verdict, self.judge.shares)

    async def __call__(self, turn: Turn, next: Next) -> AsyncGenerator[Event]:
        """The reply, or in ``enforce`` mode a deflection.

        Raises: StageError ``content_filter`` where a message is blocked, ``screening_failed`` where it can't be
        screened and must be.
        """
        screening = _Screening(self, turn)
        if self.settings.mode == "shadow":
            events = self._shadowed(screening, turn, next)
        elif (action := await screening.decide()) == "block":
            raise StageError("invalid_request", "content_filter", "The message was refused by this server's filter.")
        else:
            events = next(turn) if action != "deflect" else self._deflect(turn)
        async with aclosing(events):
            async for event in events:
                if isinstance(event, Finished) and turn.verdicts and screening.outcome is not None:
                    yield screening.outcome
                yield event

    async def _shadowed(self, screening: "_Screening", turn: Turn, next: Next) -> AsyncGenerator[Event]:
        """The reply; its turn is screened once its first text is out, or it ended without, and others have theirs too.

        A client that asked for the verdict gets it with the reply, so its turn is screened at once.
        """
        spoken = asyncio.Event()
        self._cast(screening, spoken)
        try:
            async with aclosing(next(turn)) as events:
                async for event in events:
                    yield event
                    if isinstance(event, TextDelta):
                        spoken.set()
        finally:
            spoken.set()

    async def _deflect(self, turn: Turn) -> AsyncGenerator[Event]:
        yield TextDelta(self.settings.deflection, tokens=0)
        yield TextDone()
        yield Finished("content_filter", Usage())

    def drift(self, head: HeadName) -> float:
        """How far a head's recent p-values are from uniform, as those of normal traffic are (Kolmogorov-Smirnov)."""
        p_values = np.sort([verdict.p(head) for verdict in self._recent])
        if not len(p_values):
            return 0.0
        steps = np.arange(len(p_values) + 1) / len(p_values)
        return float(max((steps[1:] - p_values).max(), (p_values - steps[:-1]).max(), 0.0))

    @property
    def flag_rate(self) -> float:
        """The share of recent texts in which a head found something; about alpha for normal traffic."""
        by_heads = sum(any(cause in HEADS for cause in verdict.causes) for verdict in self._recent)
        return by_heads / len(self._recent) if self._recent else 0.0

    async def _verdicts(self, messages: Sequence[Message], session: str) -> tuple[Verdict, ...]:
        """The verdicts of a turn's new messages. Raises: TimeoutError, StageError, what a head raises."""
        async with asyncio.timeout(self.settings.deadline):
            tasks = [asyncio.ensure_future(self._one(each, session)) for each in messages]
            try:
                return tuple(await asyncio.gather(*tasks))
            finally:
                for task in tasks:
                    task.cancel()
                if tasks:
                    await asyncio.wait(tasks)

    def _one(self, message: Message, session: str) -> Coroutine[Any, Any, Verdict]:
        return self.screen(message.content, session, message.id, document=message.role == "tool")

    def _failed(self, error: Exception) -> None:
        """Count a screening that has no verdict; nothing of the message gets into the log."""
        reason = "deadline" if isinstance(error, TimeoutError) else getattr(error, "code", type(error).__name__)
        self.failures[reason] += 1
        if not self._closing:
            level = logging.INFO if reason == "screening_not_ready" else logging.ERROR  # it is being loaded
            log.log(level, "an input could not be screened: %s", reason)

    def _cast(self, work: "_Screening", spoken: asyncio.Event) -> None:
        """Screen a turn in the shadow of its reply, which has ``spoken`` its first text or ended."""
        if len(self._shadows) >= AT_ONCE or self._closing:
            self.failures["too_many"] += 1
            return
        self._begin(work.record(spoken), "anomaly-shadow")

    async def _make_way(self, spoken: asyncio.Event) -> None:
        """Wait for the turn's first text, then for other shadows and while others wait for theirs; not for long."""
        with suppress(TimeoutError):
            async with asyncio.timeout(MAKES_WAY):
                await spoken.wait()
                await asyncio.sleep(TOGETHER - asyncio.get_running_loop().time() % TOGETHER)
                while self._urgent():  # noqa: ASYNC110 - another thread knows, and sets no event for it
                    await asyncio.sleep(LOOKS_AGAIN)

    def _begin(self, work: Coroutine[Any, Any, None], name: str) -> None:
        """Run a task in the background; closing ends it."""
        task = asyncio.create_task(work, name=name)
        self._shadows.add(task)
        task.add_done_callback(self._shadows.discard)


class _Screening:
    """One turn's screening."""

    def __init__(self, stage: AnomalyStage, turn: Turn) -> None:
        self._stage = stage
        self._settings = stage.settings
        self._turn = turn
        self.outcome: Screened | None = None  # as soon as it is known

    async def record(self, spoken: asyncio.Event) -> None:
        """Screen the turn, and change nothing; at once if the client wants its verdict, which comes with the reply."""
        try:
            if not self._turn.verdicts:
                await self._stage._make_way(spoken)
            await self._screen()
        except Exception as error:
            self._stage._failed(error)

    async def decide(self) -> Action:
        """What to do with the turn. Raises: StageError when it can't be screened and must be."""
        try:
            return await self._screen()
        except Exception as error:
            self._stage._failed(error)
            if self._settings.on_failure == "open":
                return "allow"
            raise StageError(
                "unavailable", "screening_failed", "The message could not be checked; try again."
            ) from None

    async def _screen(self) -> Action:
        with traced(self._turn.trace, "screening"):
            verdicts = await self._stage._verdicts(new_messages(self._turn), self._turn.session)
        action = worst([self._stage.action(verdict) for verdict in verdicts])
        taken = action if self._settings.mode == "enforce" else "allow"
        if taken != "block":
            self.outcome = Screened(taken, tuple(verdict.to_json() for verdict in verdicts))
        return action
