"""The pipeline: parts in their order, started, waited for and closed, and nothing known of them by name."""

import asyncio
from collections.abc import AsyncGenerator

import numpy as np
import pytest
from pydantic import BaseModel
from threadpoolctl import threadpool_info

from pipelines import build as build_module
from pipelines.build import Pipeline
from pipelines.chat.answering import Observer
from pipelines.chat.part import assemble
from pipelines.chat.settings import ChatSettings
from pipelines.chat.stage import ChatStage
from pipelines.events import Event, Finished, Message, Turn, Usage
from pipelines.flow import Next
from pipelines.part import Part, Shared, settings_model
from pipelines.stages import StageUnavailableError, built_in, check, maker
from tests.support import ScriptedModel, engine_of, replies, scripted_pipeline


class OwnSettings(BaseModel):
    size: int = 3


async def answers(turn: Turn, next: Next) -> AsyncGenerator[Event]:
    yield Finished("stop", Usage())


def quiet(step: object) -> None:
    """Progress that is not shown."""


class Loading:
    """A part whose loading the test lets go, or fails."""

    def __init__(self, name: str, *, required: bool) -> None:
        self.go = asyncio.Event()
        self.error: Exception | None = None
        self.is_ready = False
        self.closed = False
        self.part = Part(
            name, answers, required=required, start=self._start, close=self._close, ready=lambda: self.is_ready
        )

    async def _start(self) -> None:
        await self.go.wait()
        if self.error is not None:
            raise self.error
        self.is_ready = True

    async def _close(self) -> None:
        self.closed = True


async def test_turns_wait_for_required_parts_and_not_for_others() -> None:
    required, later = Loading("model", required=True), Loading("extra", required=False)
    pipeline = Pipeline([later.part, required.part])
    announced: list[str] = []
    pipeline.on_ready = lambda part, seconds: announced.append(part.name)
    starting = asyncio.create_task(pipeline.start(quiet))
    await asyncio.sleep(0.05)
    assert not starting.done()
    assert pipeline.waiting_for == ("model",)
    required.go.set()
    await starting
    assert pipeline.ready
    assert not announced
    waiting = asyncio.create_task(pipeline.wait_until(lambda: later.is_ready))
    await asyncio.sleep(0.05)
    assert not waiting.done()
    later.go.set()
    await waiting
    assert announced == ["extra"]
    await pipeline.close()
    assert required.closed
    assert later.closed


async def test_a_part_that_fails_later_is_waited_for_no_longer(caplog: pytest.LogCaptureFixture) -> None:
    later = Loading("extra", required=False)
    later.error = ValueError("no such model")
    pipeline = Pipeline([later.part])
    await pipeline.start(quiet)
    waiting = asyncio.create_task(pipeline.wait_until(lambda: later.is_ready))
    later.go.set()
    await waiting
    assert "extra is not available: no such model" in caplog.text
    await pipeline.close()


async def test_waiting_has_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build_module, "PATIENCE", 0.05)
    pipeline = Pipeline([Loading("extra", required=False).part])
    await pipeline.start(quiet)
    await pipeline.wait_until(lambda: False)
    await pipeline.close()


async def test_a_required_part_that_fails_fails_the_start_and_the_others_end() -> None:
    one, other = Loading("one", required=True), Loading("other", required=True)
    one.error = ValueError("broken")
    one.go.set()
    with pytest.raises(ValueError, match="broken"):
        await Pipeline([one.part, other.part]).start(quiet)


async def test_closing_while_a_part_loads_leaves_nothing() -> None:
    pipeline = Pipeline([Loading("extra", required=False).part])
    await pipeline.start(quiet)
    await pipeline.close()


async def test_once_started_numpy_computes_with_one_thread() -> None:
    np.ones((64, 64)) @ np.ones((64, 64))
    pipeline = scripted_pipeline(ScriptedModel(["Hi"]))
    await pipeline.start(quiet)
    pools = [pool for pool in threadpool_info() if pool["user_api"] == "blas"]
    assert pools, "NumPy's own pool is seen"
    assert all(pool["num_threads"] == 1 for pool in pools)
    await pipeline.close()


async def test_the_time_to_the_first_token_counts_what_comes_before_the_model() -> None:
    now = 100.0
    seen: list[float] = []
    pipeline = scripted_pipeline(ScriptedModel(["Hi"]))
    engine = engine_of(pipeline)

    class Watching(Observer):
        def first_token(self, seconds: float) -> None:
            seen.append(seconds)

    stage = ChatStage(engine, ChatSettings(), observer=Watching(), clock=lambda: now)
    await engine.start()
    turn = Turn("t", (Message("user", "Hi"),), begun=97.0)
    await replies(Pipeline([Part("chat", stage)]), turn)
    assert seen == [3.0], "since the server accepted the turn"
    await stage.close()
    await pipeline.close()


def test_the_stages_that_come_along_are_found_by_their_part_module() -> None:
    assert set(built_in()) == {"anomaly", "chat", "image", "speech", "tools"}
    for name in built_in():
        assert issubclass(settings_model(maker(name)), BaseModel)


@pytest.mark.parametrize(("name", "hint"), [("speach", "Did you mean 'speech'"), ("zzz", "There are anomaly")])
def test_a_stage_that_is_not_there_names_the_nearest(name: str, hint: str) -> None:
    with pytest.raises(StageUnavailableError, match=hint):
        check(name)


def test_a_part_function_must_say_what_its_settings_are() -> None:
    def right(settings: OwnSettings, shared: Shared) -> Part:
        return Part("own", answers)

    def wrong(settings: dict, shared: Shared) -> Part:  # type: ignore[type-arg]
        return Part("own", answers)

    assert settings_model(right) is OwnSettings
    with pytest.raises(TypeError, match="annotated"):
        settings_model(wrong)
    assert assemble(engine_of(scripted_pipeline(ScriptedModel("a"))), ChatSettings()).required
