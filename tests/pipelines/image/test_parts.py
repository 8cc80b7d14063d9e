"""How a picture is asked for, what is known, how it is kept and written, and who draws it."""

import asyncio
import io
import json
import re
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from PIL import Image

from pipelines.cores import Cores, Share
from pipelines.events import StageError
from pipelines.image import weights
from pipelines.image.asks import LONGEST, sentences, subject
from pipelines.image.formats import SOURCE_TYPE, Mark, enlarged, png
from pipelines.image.interface import Order
from pipelines.image.painter import BATCH, REST, Painter
from pipelines.image.repertoire import Repertoire
from pipelines.image.weights import Drawer
from tests import tiny_generator
from tests.support import PATIENCE, eventually


@pytest.mark.parametrize(
    ("message", "wanted"),
    [
        ("draw a happy cat", "a happy cat"),
        ("Draw me a happy cat!", "a happy cat"),
        ("Please draw a picture of a sad dog.", "a sad dog"),
        ("Hi, can you please draw a green heart for me?", "a green heart"),
        ("could you paint us a rainbow, please", "a rainbow"),
        ("show me a picture of the sun", "the sun"),
        ("Generate an image of a robot", "a robot"),
        ("make a funny drawing of a fox", "a fox"),
        ('draw "love"', "love"),
        ("/image happy cat", "happy cat"),
        ("  /draw   a   star ", "a star"),
        ("/image", ""),
        ("draw me a picture", ""),
        ("Draw something", ""),
        ("draw me an emoji please", ""),
        ("Make me a picture please!", ""),
        ("can you show me a nice picture", ""),
        ("What is a picture?", None),
        ("I like to draw.", None),
        ("draw", None),
        ("show me the way", None),
        ("Why did he draw a gun?", None),
        ("/imagery of war", None),
        ("draw " + "a cat " * 100, None),
        ("/image " + "a" * LONGEST, None),
        ("", None),
    ],
)
def test_a_message_that_asks_for_a_picture_says_of_what(message: str, wanted: str | None) -> None:
    assert subject(message) == wanted


def test_hostile_messages_are_read_in_no_time() -> None:
    for text in (
        "please " * 40 + "draw",
        "draw " * 60,
        "hey, " * 59 + "x",
        "draw me a picture of " * 14,
        "draw a" + " ," * 140,
    ):
        assert len(text) <= LONGEST
        for _ in range(200):
            subject(text)


def test_sentences_are_found_where_they_are() -> None:
    text = "Well done! That is great… Is it?\nYes"
    assert [text[a:b] for a, b in sentences(text, most=8)] == ["Well done!", "That is great…", "Is it?", "Yes"]
    assert len(sentences("One. " * 50, most=8)) == 8
    assert sentences("", most=8) == ()
    assert sentences("...", most=8) == ()


def unit(*numbers: float) -> "np.ndarray[tuple[int], np.dtype[np.float32]]":
    vector = np.zeros(384, dtype=np.float32)
    vector[: len(numbers)] = numbers
    return (vector / np.linalg.norm(vector)).astype(np.float32)


def repertoire() -> Repertoire:
    """Hearts, one of them green by name, and a cat that can have colours."""
    captions = np.stack([unit(1), unit(1, 0.6), unit(0, 0, 1), unit(0, 0, 1, 1)])
    drawn = np.zeros((5, 384), dtype=np.float32)
    return Repertoire(["heart", "green heart", "cat"], [(), (), ("red", "green")], [0, 1, 2, 2], captions, drawn)


def test_the_nearest_caption_is_found_and_a_colour_of_its_own_comes_first() -> None:
    known = repertoire()
    assert known.find(unit(0, 0, 1, 1)).entry.caption == "cat"
    assert known.find(unit(0, 0, 1, 1)).similarity == pytest.approx(1)
    assert known.find(unit(0, 0, 1, 0, 0.4), unit(0, 0, 1), "green").entry.caption == "green cat"
    assert known.find(unit(0, 0, 1, 0, 0.4), unit(0, 0, 1), "purple").entry.caption == "cat", "it has no purple"
    green = known.find(unit(1, 0.6), unit(1), "green")
    assert green.entry.caption == "green heart"
    assert [entry.caption for entry in known.entries] == ["heart", "green heart", "cat", "red cat", "green cat"]
    assert [entry.row for entry in known.entries] == list(range(5))
    assert known.nearest(unit(1, 0.5), 2) == ["green heart", "heart"]


def kept(folder: Path) -> Path:
    known = tiny_generator.drawer()
    captions = torch.from_numpy(known.repertoire.captions)
    weights.save(folder, known.words, known.generator, captions, torch.from_numpy(known.repertoire.drawn))
    return folder


def test_a_generator_that_was_kept_draws_what_it_drew(tmp_path: Path) -> None:
    before, after = tiny_generator.drawer(), weights.load(kept(tmp_path))
    text, style, z = torch.randn(3, 384), torch.tensor([0, 1, 2]), torch.randn(3, 8)
    assert torch.allclose(before.generator(text, style, z), after.generator(text, style, z), atol=0.01)
    assert after.words == before.words
    assert [entry.caption for entry in after.repertoire.entries][:4] == ["disc", "red disc", "blue disc", "box"]
    assert after.repertoire.find(before.repertoire.captions[4]).entry.caption == "triangle"


def test_files_that_are_no_generator_say_why(tmp_path: Path) -> None:
    with pytest.raises(weights.WeightsError, match="holds no generator"):
        weights.load(tmp_path)
    folder = kept(tmp_path)
    words, numbers = folder / weights.WORDS, folder / weights.NUMBERS
    good, told = numbers.read_bytes(), json.loads(words.read_text())
    numbers.write_bytes(good[:-2] + b"zz")
    with pytest.raises(weights.WeightsError, match="not the file"):
        weights.load(folder)
    numbers.write_bytes(good)
    for change, why in (
        ({"format": 0}, "another version"),
        ({"concepts": told["concepts"][1:]}, "as many captions"),
        ({"styles": ["flat"]}, "as many styles"),
        ({"shape": told["shape"] | {"widths": [10**6] * 4}}, "a shape that no generator"),
        ({"shape": told["shape"] | {"widths": [64] * 4}}, "can't be read"),
        ({"shape": told["shape"] | {"depth": 3}}, "can't be read"),
        ({"concepts": None}, "can't be read"),
    ):
        words.write_text(json.dumps(told | change))
        with pytest.raises(weights.WeightsError, match=why):
            weights.load(folder)
    words.write_text("{")
    with pytest.raises(weights.WeightsError, match="can't be read"):
        weights.load(folder)
    known = tiny_generator.drawer()
    with torch.no_grad():
        known.generator.paint.weight.fill_(float("inf"))
    captions = torch.from_numpy(known.repertoire.captions)
    weights.save(folder, known.words, known.generator, captions, torch.from_numpy(known.repertoire.drawn))
    with pytest.raises(weights.WeightsError, match="no number"):
        weights.load(folder)


DISC = torch.from_numpy(tiny_generator.pictures().pixels[0, 0])
MARK = Mark("loquent-mood-1", 42, 'a <cat> & "friends"')


@pytest.mark.parametrize("size", [64, 128, 256, 1024])
def test_a_picture_is_written_with_its_size_and_its_mark(size: int) -> None:
    file = png(enlarged(DISC, size), MARK)
    with Image.open(io.BytesIO(file)) as image:
        assert (image.format, image.mode, image.size) == ("PNG", "RGBA", (size, size))
        pixels = np.asarray(image)
        assert pixels[0, 0, 3] == 0
        red, green, blue, opacity = pixels[size // 2, size // 2].tolist()
        assert (red, green, blue) == pytest.approx((230, 60, 40), abs=2)
        assert opacity == 255
        told = image.info["XML:com.adobe.xmp"]
    (description,) = ElementTree.fromstring(told).iter("{http://www.w3.org/1999/02/22-rdf-syntax-ns#}Description")
    assert description.get("{http://iptc.org/std/Iptc4xmpExt/2008-02-29/}DigitalSourceType") == SOURCE_TYPE
    assert description.get("{urn:loquent:image}model") == "loquent-mood-1"
    assert description.get("{urn:loquent:image}seed") == "42"
    assert 'a <cat> & "friends"' in "".join(description.itertext())
    assert file.index(b"iTXt") < file.index(b"IDAT")


def test_an_enlarged_edge_has_the_colour_of_what_it_is_the_edge_of() -> None:
    with Image.open(io.BytesIO(png(enlarged(DISC, 256), MARK))) as image:
        pixels = np.asarray(image).reshape(-1, 4).astype(int)
    edge = pixels[(pixels[:, 3] > 30) & (pixels[:, 3] < 220)]
    assert len(edge) > 100
    assert abs(edge[:, 0] - 230).mean() < 12, "no dark rim"


def test_an_opaque_picture_is_on_white() -> None:
    with Image.open(io.BytesIO(png(enlarged(DISC, 64, opaque=True), MARK))) as image:
        assert image.mode == "RGB"
        assert image.getpixel((0, 0)) == (255, 255, 255)


def order(seed: int = 0, row: int = 0, size: int = 64) -> Order:
    return Order(row, "disc", seed % 3, seed, size)


class Held(Painter):
    """A painter that begins to draw when it is let."""

    def __init__(self, waiting: int, share: Share | None = None) -> None:
        super().__init__(tiny_generator.drawer, waiting=waiting, share=share)
        self.go = threading.Event()
        self.go.set()
        self.begun = 0
        self.seeds: list[int] = []

    def _draw(self, drawer: Drawer, orders: Sequence[Order]) -> Any:
        self.begun += 1
        self.go.wait(PATIENCE)
        self.seeds += [each.seed for each in orders]
        return super()._draw(drawer, orders)


async def painter(*, waiting: int = 64, held: bool = False) -> Held:
    made = Held(waiting)
    await made.start()
    made.begun, made.seeds = 0, []
    if held:
        made.go.clear()
    return made


async def test_many_that_ask_at_once_are_drawn_together() -> None:
    made = await painter(held=True)
    first = asyncio.create_task(made.paint([order()]))
    await eventually(lambda: made.begun == 1, "the first is being drawn")
    rest = [asyncio.create_task(made.paint([order(seed)])) for seed in range(1, 18)]
    await eventually(lambda: made.waiting == 17, "the others wait")
    made.go.set()
    await asyncio.gather(first, *rest)
    assert list(made.batches) == [1, BATCH, 1]
    await made.close()


async def test_a_seed_and_a_caption_decide_a_picture_whoever_else_is_drawn_for() -> None:
    made = await painter()
    (alone,) = await made.paint([order(7, row=3)])
    among = await made.paint([order(seed, row=seed) for seed in range(5)] + [order(7, row=3)])
    different = await made.paint([order(8, row=3), order(7, row=4)])
    await made.close()

    def pixels(file: bytes) -> "np.ndarray[tuple[int, ...], np.dtype[np.int64]]":
        with Image.open(io.BytesIO(file)) as image:
            return np.asarray(image.convert("RGBA")).astype(np.int64)

    assert abs(pixels(alone) - pixels(among[-1])).max() <= 3
    for other in different:
        assert abs(pixels(alone) - pixels(other)).max() > 3


async def test_too_many_are_refused_at_once_and_places_come_back() -> None:
    made = await painter(waiting=3)
    with pytest.raises(StageError, match="capacity for 3 pictures") as caught:
        await made.paint([order()] * 4)
    assert caught.value.kind == "overloaded"
    assert len(await made.paint([order()] * 3)) == 3
    await made.close()


async def test_who_goes_away_is_not_drawn_for() -> None:
    made = await painter(held=True)
    tasks = [asyncio.create_task(made.paint([order(0)]))]
    await eventually(lambda: made.begun == 1, "the first is being drawn")
    tasks += [asyncio.create_task(made.paint([order(seed)])) for seed in (1, 2)]
    await eventually(lambda: made.waiting == 2, "two wait")
    tasks[1].cancel()
    await asyncio.wait([tasks[1]])
    made.go.set()
    await asyncio.gather(tasks[0], tasks[2])
    assert made.seeds == [0, 2]
    await made.close()


async def test_a_pass_that_fails_is_told_and_the_next_ones_are_drawn(caplog: pytest.LogCaptureFixture) -> None:
    made = await painter()
    with pytest.raises(IndexError):
        await made.paint([order(row=10**6)])
    assert "could not be drawn" in caplog.text
    assert len(await made.paint([order()])) == 1
    await made.close()


async def test_replies_come_before_who_asks_directly_and_large_pictures_are_drawn_alone() -> None:
    made = await painter(held=True)
    first = asyncio.create_task(made.paint([order(0)]))
    await eventually(lambda: made.begun == 1, "the first is being drawn")
    bulk = asyncio.create_task(made.paint([order(1, size=1024), order(2)], bulk=True))
    await eventually(lambda: made.waiting == 2, "they wait")
    urgent = asyncio.create_task(made.paint([order(3)]))
    await eventually(lambda: made.waiting == 3, "it waits too")
    made.go.set()
    await asyncio.gather(first, bulk, urgent)
    assert made.seeds == [0, 3, 1, 2]
    assert list(made.batches) == [1, 1, 1, 1], "a large one counts for sixteen, and waits for a pass of its own"
    await made.close()


async def test_places_are_counted_by_size_and_shared_among_keys() -> None:
    made = await painter(waiting=32, held=True)
    first = asyncio.create_task(made.paint([order(0)], tenant="a"))
    await eventually(lambda: made.begun == 1, "the first is being drawn")
    with pytest.raises(StageError) as caught:
        await made.paint([order(1, size=1024)] * 3)
    assert caught.value.code == "server_overloaded"
    theirs = asyncio.create_task(made.paint([order(1, size=1024)], tenant="a"))
    await eventually(lambda: made.waiting == 1, "it waits")
    with pytest.raises(StageError) as caught:
        await made.paint([order(2, size=512)] * 3, tenant="a")
    assert caught.value.code == "too_many_requests"
    other = asyncio.create_task(made.paint([order(2, size=512)] * 3, tenant="b"))
    await eventually(lambda: made.waiting == 4, "another key has places")
    theirs.cancel()
    await asyncio.wait([theirs])
    assert made.waiting == 3, "who goes leaves its place at once"
    made.go.set()
    await asyncio.gather(first, other)
    await made.close()


async def test_who_goes_while_it_is_drawn_is_not_written_for() -> None:
    made = await painter(held=True)
    task = asyncio.create_task(made.paint([order(0), order(1)]))
    await eventually(lambda: made.begun == 1, "they are being drawn")
    task.cancel()
    await asyncio.wait([task])
    made.go.set()
    await made.paint([order(2)])
    assert made.drawn == 1
    await made.close()


async def test_beside_others_one_is_drawn_at_a_time_and_every_step_rests(monkeypatch: pytest.MonkeyPatch) -> None:
    rests: list[float] = []
    monkeypatch.setattr("pipelines.image.painter.time.sleep", rests.append)
    among = Cores(2)
    others = among.share(1)
    made = Held(64, among.share(1))
    await made.start()
    await made.paint([order(seed) for seed in range(4)])
    assert list(made.batches) == [4]
    assert not rests, "nobody else computes"
    others.active = True
    await made.paint([order(seed, size=256) for seed in range(4)])
    assert list(made.batches) == [4, 1, 1, 1, 1]
    steps = len(
        list(tiny_generator.drawer().generator.steps(torch.zeros(1, 384), torch.tensor([0]), torch.zeros(1, 8)))
    )
    assert len(rests) >= 4 * (steps + 1)
    assert set(rests) == {REST}
    await made.close()


async def test_closing_ends_what_waits_and_refuses_what_comes() -> None:
    made = await painter(held=True)
    first = asyncio.create_task(made.paint([order()]))
    await eventually(lambda: made.begun == 1, "the first is being drawn")
    second = asyncio.create_task(made.paint([order()]))
    await eventually(lambda: made.waiting == 1, "the second waits")
    closing = asyncio.create_task(made.close())
    await eventually(lambda: made._worker.closing, "it closes")
    made.go.set()
    await closing
    assert len(await first) == 1
    with pytest.raises(StageError, match="shutting down"):
        await second
    with pytest.raises(StageError, match="can't be drawn yet"):
        await made.paint([order()])


async def test_a_generator_that_can_not_be_loaded_is_said_so(tmp_path: Path) -> None:
    made = Painter(lambda: weights.load(tmp_path), waiting=4)
    with pytest.raises(weights.WeightsError, match=re.escape(str(tmp_path))):
        await made.start()
    await made.close()


def test_the_bundled_generator_fits_its_bounds() -> None:
    sizes = {path.name: path.stat().st_size for path in weights.BUNDLED.iterdir()}
    assert sizes[weights.NUMBERS] + sizes[weights.WORDS] <= 16 << 20
    known = weights.load()
    parameters = sum(each.numel() for each in known.generator.parameters())
    assert 3e6 <= parameters <= 8e6
    assert len(known.words.concepts) >= 148
    assert "CC-BY-4.0" in (weights.BUNDLED / "ATTRIBUTION.md").read_text()
