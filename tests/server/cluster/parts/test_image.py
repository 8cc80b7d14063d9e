"""Pictures from replicas: the same files as here."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest
from aiohttp import web

from pipelines.events import StageError
from pipelines.image.interface import Order
from pipelines.image.painter import Painter
from pipelines.image.settings import ImageSettings
from pipelines.image.weights import Drawer
from server.cluster.members import Member
from server.cluster.parts import here as here_module
from server.cluster.parts.elsewhere import Elsewhere
from server.cluster.parts.here import Here
from server.cluster.parts.image import RemotePainter, described, drawer_of
from server.cluster.parts.wire import END, Frame, MalformedError
from server.config import Settings
from tests import tiny_generator
from tests.server.cluster.parts.replicas import answered, connected, misbehaving, replica
from tests.support import eventually

ORDERS = [
    Order(0, "disc", 0, 1, 64),
    Order(3, "a blue box", 2, 2**32 - 1, 256),
    Order(4, "<&\"ä'>", 1, 7, 512, opaque=True),
]


def with_generator(drawer: Drawer, *, waiting: int = 64) -> tuple[Here, Painter]:
    """Pictures with this generator, as a replica has them."""
    painter = Painter(lambda: drawer, waiting=waiting)
    return here_module.drawing(painter), painter


@asynccontextmanager
async def asked(*members: Member, **image: Any) -> AsyncIterator[RemotePainter]:
    """What asks these replicas."""
    elsewhere = Elsewhere(Settings(image=ImageSettings(**image)), ("image",))
    painter: RemotePainter = elsewhere.seams["image"]
    async with connected(elsewhere, "image", *members):
        yield painter


async def test_a_replica_draws_the_same_files_as_a_painter_that_is_here() -> None:
    made, _ = with_generator(tiny_generator.drawer())
    here = Painter(tiny_generator.drawer, waiting=64)
    await here.start()
    async with replica("image", made) as other, asked(other.member) as painter:
        assert painter.ready
        for bulk in (False, True):
            assert await painter.paint(ORDERS, tenant="site", bulk=bulk) == await here.paint(ORDERS)
        assert (painter.drawn, painter.waiting, made.load.ongoing, painter.capacity.held) == (6, 0, 0, 0)
    await here.close()


async def test_what_can_be_drawn_is_known_without_the_generator() -> None:
    drawer = tiny_generator.drawer()
    made, _ = with_generator(drawer)
    async with replica("image", made) as other, asked(other.member) as painter:
        assert painter.drawer is not None
        assert painter.drawer.words == drawer.words
        assert painter.drawer.repertoire.entries == drawer.repertoire.entries
        for number in range(len(drawer.repertoire.captions)):
            text = drawer.repertoire.captions[number]
            assert painter.drawer.repertoire.find(text).entry == drawer.repertoire.find(text).entry
            assert painter.drawer.repertoire.nearest(text, 3) == drawer.repertoire.nearest(text, 3)


async def test_a_gateway_that_leaves_drops_its_pictures() -> None:
    made, painter = with_generator(tiny_generator.drawer())
    draw: Callable[..., Any] = painter._draw
    async with replica("image", made) as other, asked(other.member) as remote:
        with painter._worker.changed:  # its thread waits for it
            drawing_them = asyncio.create_task(remote.paint(ORDERS))
            while made.load.ongoing < len(ORDERS):
                await asyncio.sleep(0.01)
            drawing_them.cancel()
            await asyncio.wait([drawing_them])
        await eventually(lambda: (made.load.ongoing, painter.waiting) == (0, 0), "they are dropped")
        assert remote.capacity.held == 0
        assert draw == painter._draw


async def test_a_generator_that_was_replaced_is_asked_for_nothing_of_another_one() -> None:
    old, new = with_generator(tiny_generator.drawer())[0], with_generator(tiny_generator.drawer(("cone", "tree")))[0]
    async with replica("image", old) as first, replica("image", new) as second, asked(first.member) as painter:
        before = painter.drawer
        painter._replicas.change((second.member,))
        await eventually(lambda: painter.drawer is not before, "it has learned of the other one")
        assert painter.drawer is not None
        assert painter.drawer.repertoire.labels == ("cone", "tree")
        painter._replicas.change((first.member,))
        await eventually(lambda: painter.ready, "the first one answers again")
        painter.drawer = replace(painter.drawer, digest="other")
        with pytest.raises(StageError) as refused:
            await painter.paint(ORDERS)
        assert (refused.value.kind, refused.value.code) == ("unavailable", "image_not_ready")


async def test_capacity_is_bounded_here_and_there_and_impossible_orders_are_refused() -> None:
    made, _ = with_generator(tiny_generator.drawer(), waiting=16)
    async with replica("image", made) as other, asked(other.member) as painter:
        for orders, code in (
            ([Order(0, "", 0, 0, 1024)] * 5, "server_overloaded"),
            ([Order(0, "", 0, 0, 64)] * 17, "server_overloaded"),
            ([Order(999, "", 0, 0, 64)], "internal_error"),
            ([Order(0, "", 9, 0, 64)], "internal_error"),
            ([Order(0, "", 0, -1, 64)], "internal_error"),
            ([Order(0, "", 0, 0, 4096)], "server_overloaded"),
            ([Order(0, "", 0, 0, 65)], ""),
        ):
            if not code:
                assert len(await painter.paint(orders)) == 1
                continue
            with pytest.raises(StageError) as refused:
                await painter.paint(orders)
            assert refused.value.code == code
        assert painter.capacity.held == 0


async def test_without_a_replica_the_error_is_that_of_a_generator_that_is_not_loaded() -> None:
    made, _ = with_generator(tiny_generator.drawer())
    async with replica("image", made) as other, asked(other.member) as painter:
        painter._replicas.change(())
        assert not painter.ready
        with pytest.raises(StageError) as failed:
            await painter.paint(ORDERS)
        assert (failed.value.kind, failed.value.code) == ("unavailable", "image_not_ready")


@pytest.mark.parametrize(
    "answer",
    [
        Frame({"sizes": [4]}, b"abcd"),
        Frame({"sizes": [8, 8]}, b"\x89PNG\r\n\x1a\n" * 2),
        Frame({"sizes": [-1]}),
        Frame({"sizes": [9]}, b"\x89PNG\r\n\x1a\n"),
        Frame(),
    ],
)
async def test_files_that_are_none_are_passed_on_to_nobody(answer: Frame) -> None:
    async def answers(request: web.Request) -> web.Response:
        return answered(answer, END)

    description = described(tiny_generator.drawer())
    async with misbehaving(answers, kind="image", description=description) as (other,), asked(other) as painter:
        with pytest.raises(StageError) as failed:
            await painter.paint(ORDERS[:1])
        assert failed.value.code == "internal_error"


def test_a_description_that_makes_no_sense_is_refused() -> None:
    good = described(tiny_generator.drawer())
    assert drawer_of(good).words.name == "tiny"
    words = good.head["words"]
    for head, body in (
        ({}, b""),
        (good.head, good.body[:-4]),
        (good.head, b"\xff" * len(good.body)),
        ({"words": {**words, "styles": []}}, good.body),
        ({"words": {**words, "concepts": []}}, b""),
    ):
        with pytest.raises(MalformedError):
            drawer_of(Frame(head, body))


async def test_the_bundled_generator_is_what_a_replica_has() -> None:
    async with replica("image", here_module.here("image", Settings())) as other, asked(other.member) as painter:
        assert painter.drawer is not None
        (file,) = await painter.paint([Order(0, "x", 0, 0, 64)])
        assert file.startswith(b"\x89PNG")
