"""The image stage around a scripted model, with the real embedding model and a small generator."""

import asyncio
import io
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from pipelines.chat.stage import ChatStage
from pipelines.events import AudioDelta, Event, Finished, Message, Picture, Speech, TextDelta, Turn, Usage
from pipelines.flow import Next, flow
from pipelines.image.interface import Order
from pipelines.image.painter import Painter
from pipelines.image.settings import ImageSettings
from pipelines.image.stage import ImageStage
from pipelines.image.weights import Drawer, WeightsError
from pipelines.speech.stage import SpeechStage
from tests.support import (
    PATIENCE,
    ScriptedModel,
    ScriptedVoice,
    drawing,
    echo,
    engine_of,
    eventually,
    painter_of,
    scripted_pipeline,
    scripted_speech,
    stage_of,
)


def turn(text: str, **fields: Any) -> Turn:
    return Turn("t", (Message("user", text),), **fields)


async def run(
    stage: ImageStage, given: Turn, model: ScriptedModel | None = None, speech: SpeechStage | None = None
) -> list[Event]:
    """What a turn comes to; the model says its message again."""
    pipeline = scripted_pipeline(model or ScriptedModel(echo), image=stage, speech=speech)
    await engine_of(pipeline).start()
    if speech is not None:
        await speech.start()
    try:
        async with asyncio.timeout(PATIENCE), flow(given, pipeline.stages) as events:
            return [event async for event in events]
    finally:
        await stage_of(pipeline, ChatStage).close()
        if speech is not None:
            await speech.close()


def kinds(events: Sequence[Event]) -> list[str]:
    """The events' kinds, runs of one kind as one."""
    names = [type(event).__name__ for event in events]
    return [name for n, name in enumerate(names) if not n or name != names[n - 1]]


def said(events: Sequence[Event]) -> str:
    return "".join(event.text for event in events if isinstance(event, TextDelta | AudioDelta))


def pictures(events: Sequence[Event]) -> list[Picture]:
    return [event for event in events if isinstance(event, Picture)]


@pytest.fixture
async def stage(minilm: Path, drawer: Drawer) -> AsyncIterator[ImageStage]:
    made = drawing(minilm, drawer)
    await made.start()
    yield made
    await made.close()


async def with_settings(minilm: Path, drawer: Drawer, **settings: Any) -> ImageStage:
    made = drawing(minilm, drawer, **settings)
    await made.start()
    return made


async def test_a_message_that_asks_for_a_picture_is_answered_by_a_line_and_the_picture(stage: ImageStage) -> None:
    model = ScriptedModel(["never"])
    events = await run(stage, turn("Draw me a happy cat, please!"), model)
    assert kinds(events) == ["TextDelta", "TextDone", "Picture", "Finished"]
    assert said(events) == stage.settings.line
    assert events[-1] == Finished("stop", Usage())
    (picture,) = pictures(events)
    assert (picture.caption, picture.model, picture.size) == ("grinning cat", "tiny", 256)
    with Image.open(io.BytesIO(picture.png)) as image:
        assert image.size == (256, 256)
    assert not model.prompts, "the model did not run"
    assert stage.outcomes == {"drawn": 1}


@pytest.mark.parametrize(
    ("text", "caption"),
    [
        ("/image a sad cat", "crying cat"),
        ("draw a green cat", "green grinning cat"),
        ("draw a green heart", "green heart"),
        ("draw a pink cat", "grinning cat"),
        ("Can you paint a blue sad cat for me?", "blue crying cat"),
    ],
)
async def test_what_is_meant_is_drawn_in_the_colour_that_is_meant(stage: ImageStage, text: str, caption: str) -> None:
    (picture,) = pictures(await run(stage, turn(text)))
    assert picture.caption == caption


@pytest.mark.parametrize("text", ["draw a medieval castle", "Draw a bailiff.", "/image a chart of our sales in May"])
async def test_what_is_like_nothing_known_goes_to_the_model_without_an_error(stage: ImageStage, text: str) -> None:
    events = await run(stage, turn(text))
    assert kinds(events) == ["Started", "TextDelta", "TextDone", "Finished"]
    assert said(events).split() == text.split()
    assert stage.outcomes == {"abstained": 1}


@pytest.mark.parametrize("text", ["I am so happy for you, congratulations!", "Draw a conclusion."])
async def test_a_message_that_asks_for_no_picture_is_not_even_embedded(stage: ImageStage, text: str) -> None:
    async def never(*_: object, **__: object) -> Any:
        raise AssertionError("this was embedded")

    stage.embedder.embed = never  # type: ignore[method-assign]
    events = await run(stage, turn(text))
    assert kinds(events) == ["Started", "TextDelta", "TextDone", "Finished"]
    assert not stage.outcomes


async def test_what_a_message_asks_besides_is_answered_by_the_model_and_the_picture_comes_with_it(
    stage: ImageStage,
) -> None:
    events = await run(stage, turn("Draw a sad cat and tell me a joke"))
    assert kinds(events) == ["Started", "TextDelta", "TextDone", "Picture", "Finished"]
    assert said(events).split() == ["tell", "me", "a", "joke"], (
        "the model reads the rest only, and no line comes before"
    )
    assert [picture.caption for picture in pictures(events)] == ["crying cat"]


@pytest.mark.parametrize("text", ["Draw a medieval castle and tell me a joke", "Draw a blank and tell me a joke"])
async def test_where_nothing_is_drawn_the_model_reads_the_whole_message(stage: ImageStage, text: str) -> None:
    events = await run(stage, turn(text))
    assert kinds(events) == ["Started", "TextDelta", "TextDone", "Finished"]
    assert said(events).split() == text.split()


async def test_a_picture_left_open_is_of_the_mood_of_what_the_rest_is_answered_with(stage: ImageStage) -> None:
    events = await run(stage, turn("Draw me a picture and wish us a happy birthday"))
    assert said(events).split() == ["wish", "us", "a", "happy", "birthday"]
    assert [picture.caption for picture in pictures(events)] == ["partying face"]


@pytest.mark.parametrize(
    ("text", "caption"),
    [
        ("Well then. I am so sorry for your loss. The form is on page two.", "crying face"),
        ("Happy birthday to you!", "partying face"),
        ("The capital of France is Paris.", None),
        ("The function returns a list of integers.", None),
    ],
)
@pytest.mark.parametrize("by", ["client", "configuration"])
async def test_a_reply_comes_with_a_picture_of_its_mood_where_it_has_one(
    minilm: Path, drawer: Drawer, text: str, caption: str | None, by: str
) -> None:
    stage = await with_settings(minilm, drawer, when="mood" if by == "configuration" else "asked")
    events = await run(stage, turn(text, image=True if by == "client" else None))
    expected = ["Started", "TextDelta", "TextDone", *(["Picture"] if caption else []), "Finished"]
    assert kinds(events) == expected
    assert [picture.caption for picture in pictures(events)] == ([caption] if caption else [])
    assert stage.outcomes == ({"drawn": 1} if caption else {"abstained": 1})
    await stage.close()


async def test_image_without_a_subject_draws_the_mood_of_the_reply(stage: ImageStage) -> None:
    events = await run(stage, turn("/image"), ScriptedModel(["Congratulations", "!"]))
    assert [picture.caption for picture in pictures(events)] == ["partying face"]
    assert said(events) == "Congratulations!"


@pytest.mark.parametrize("text", ["draw a happy cat", "happy birthday"])
async def test_no_picture_comes_where_the_client_or_the_configuration_wants_none(
    minilm: Path, drawer: Drawer, text: str
) -> None:
    for settings, image in (({"when": "never"}, None), ({"when": "never"}, True), ({"when": "mood"}, False)):
        stage = await with_settings(minilm, drawer, **settings)
        assert kinds(await run(stage, turn(text, image=image))) == ["Started", "TextDelta", "TextDone", "Finished"]
        await stage.close()


async def test_a_turn_that_a_stage_around_it_answers_gets_no_picture(stage: ImageStage) -> None:
    async def deflects(turn: Turn, next: Next) -> AsyncGenerator[Event]:
        yield TextDelta("No.")
        yield Finished("content_filter", Usage())

    async with flow(turn("draw a happy cat"), [deflects, stage]) as events:
        assert not pictures([event async for event in events])
    assert not stage.outcomes


async def test_a_reply_that_was_filtered_within_it_gets_no_picture(stage: ImageStage) -> None:
    async def deflects(turn: Turn, next: Next) -> AsyncGenerator[Event]:
        yield TextDelta("happy birthday")
        yield Finished("content_filter", Usage())

    async with flow(turn("Hello", image=True), [stage, deflects]) as events:
        assert not pictures([event async for event in events])


async def test_only_the_last_message_asks(stage: ImageStage) -> None:
    messages = (Message("user", "draw a happy cat"), Message("assistant", "Here."), Message("user", "thanks"))
    assert not pictures(await run(stage, Turn("t", messages)))
    assert not pictures(await run(stage, Turn("t", messages[:2])))


async def test_the_line_is_spoken_and_the_picture_comes_behind_it(stage: ImageStage) -> None:
    events = await run(stage, turn("draw a happy cat", speech=Speech()), speech=scripted_speech(ScriptedVoice()))
    assert kinds(events) == ["AudioDelta", "TextDone", "Picture", "Finished"]
    assert said(events) == stage.settings.line


class Stuck(Painter):
    """A painter that draws when it is let."""

    def __init__(self, drawer: Drawer) -> None:
        super().__init__(lambda: drawer, waiting=8)
        self.go = threading.Event()
        self.begun = 0

    def _draw(self, drawer: Drawer, orders: Sequence[Order]) -> Any:
        if self.drawer is not None:  # it is loaded
            self.begun += 1
            self.go.wait(PATIENCE)
        return super()._draw(drawer, orders)


async def stuck(minilm: Path, drawer: Drawer, **settings: Any) -> tuple[ImageStage, Stuck]:
    made = drawing(minilm, drawer)
    painter = Stuck(drawer)
    stage = ImageStage(made.embedder, painter, ImageSettings(**settings))
    await stage.start()
    return stage, painter


async def test_text_does_not_wait_for_the_picture(minilm: Path, drawer: Drawer) -> None:
    stage, painter = await stuck(minilm, drawer)
    pipeline = scripted_pipeline(ScriptedModel(echo), image=stage)
    await engine_of(pipeline).start()
    for given, text in ((turn("draw a cat"), stage.settings.line), (turn("happy birthday", image=True), "happy ")):
        painter.go.clear()
        async with asyncio.timeout(PATIENCE), flow(given, pipeline.stages) as events:
            async for event in events:
                if isinstance(event, TextDelta):
                    break
            assert isinstance(event, TextDelta)
            assert event.text.startswith(text), "while the picture can't be drawn"
            painter.go.set()
            assert kinds([event async for event in events])[-2:] == ["Picture", "Finished"]
    await stage_of(pipeline, ChatStage).close()
    await stage.close()


async def test_a_picture_that_takes_too_long_is_left_out(minilm: Path, drawer: Drawer) -> None:
    stage, painter = await stuck(minilm, drawer, deadline=0.2)
    assert kinds(await run(stage, turn("draw a happy cat"))) == ["TextDelta", "TextDone", "Finished"]
    assert stage.outcomes == {"deadline": 1}
    painter.go.set()
    assert len(pictures(await run(stage, turn("draw a happy cat")))) == 1
    await stage.close()


async def test_a_turn_that_is_left_drops_its_picture(minilm: Path, drawer: Drawer) -> None:
    stage, painter = await stuck(minilm, drawer)
    async with flow(turn("draw a happy cat"), [stage]) as events:
        assert isinstance(await anext(events), TextDelta)
        await eventually(lambda: painter.begun == 1, "it is being drawn")
    painter.go.set()
    await stage.close()
    assert not stage.outcomes["drawn"]


async def test_a_reply_comes_without_a_picture_when_drawing_fails(
    stage: ImageStage, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> Any:
        raise RuntimeError("out of memory")

    painter_of(stage)._draw = fail  # type: ignore[assignment, method-assign]
    events = await run(stage, turn("draw a happy cat"))
    assert kinds(events) == ["TextDelta", "TextDone", "Finished"]
    assert stage.outcomes == {"RuntimeError": 1}
    assert "happy cat" not in caplog.text


async def test_while_the_models_load_the_model_answers(minilm: Path, drawer: Drawer) -> None:
    stage = drawing(minilm, drawer)
    events = await run(stage, turn("draw a happy cat"))
    assert kinds(events) == ["Started", "TextDelta", "TextDone", "Finished"]
    assert stage.outcomes == {"image_not_ready": 1}
    await stage.close()


async def test_a_generator_that_can_not_be_loaded_is_said_once_and_replies_go_on(
    minilm: Path, drawer: Drawer, caplog: pytest.LogCaptureFixture
) -> None:
    def load() -> Drawer:
        raise WeightsError("no generator here")

    made = drawing(minilm, drawer)
    stage = ImageStage(made.embedder, Painter(load, waiting=8), ImageSettings())
    pipeline = scripted_pipeline(ScriptedModel(echo), image=stage)
    await pipeline.start(lambda step: None)
    await eventually(lambda: "image is not available: no generator here" in caplog.text, "it is said")
    await pipeline.close()
    for _ in range(3):
        events = await run(stage, turn("draw a happy cat"))
        assert kinds(events) == ["Started", "TextDelta", "TextDone", "Finished"]
    assert stage.outcomes == {"image_failed": 3}
    assert caplog.text.count("replies have no pictures: image_failed") == 1
    await stage.close()


async def test_a_message_that_can_not_be_understood_in_time_goes_to_the_model(
    stage: ImageStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def never(*_: object, **__: object) -> Any:
        await asyncio.Event().wait()

    monkeypatch.setattr(stage.embedder, "embed", never)
    monkeypatch.setattr("pipelines.image.stage.UNDERSTANDING", 0.01)
    events = await run(stage, turn("draw a happy cat"))
    assert kinds(events) == ["Started", "TextDelta", "TextDone", "Finished"]
    assert stage.outcomes == {"deadline": 1}


async def test_a_turn_that_is_left_before_its_picture_is_begun_leaves_nothing(stage: ImageStage) -> None:
    async with flow(turn("draw a happy cat"), [stage]):
        pass
    assert not stage.outcomes


async def test_closing_while_it_loads_leaves_nothing(minilm: Path, drawer: Drawer) -> None:
    pipeline = scripted_pipeline(ScriptedModel(echo), image=drawing(minilm, drawer))
    await pipeline.start(lambda step: None)
    await pipeline.close()


async def test_a_seed_decides_a_picture_and_styles_take_turns(stage: ImageStage) -> None:
    found = (await stage.understand("a happy cat")).found
    first = await stage.draw(found, count=4, seed=10)
    again = await stage.draw(found, count=1, seed=12)
    assert [picture.seed for picture in first] == [10, 11, 12, 13]
    assert {picture.style for picture in first} == {"flat", "soft", "3d"}
    assert again[0].style == first[2].style
    assert len({picture.id for picture in (*first, *again)}) == 5
    assert {picture.style for picture in await stage.draw(found, count=3, style="soft")} == {"soft"}
