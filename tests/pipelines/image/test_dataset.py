"""What the generator learns from: reading, recolouring, what is left out, and captions of this project's own."""

import io
import json
from importlib.resources import files
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from pipelines.image.captions import COLOURS, coloured, without_colour
from pipelines.image.generator import SIDE
from pipelines.image.training.dataset import _NEVER, _wanted, apart, hue_of, read, shifted
from tests import tiny_generator

CAPTIONS: dict[str, dict[str, Any]] = json.loads(
    files("pipelines.image.training").joinpath("captions.json").read_text("utf-8")
)


def encoded(image: Image.Image, kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **({"lossless": True} if kind == "WEBP" else {}))
    return file.getvalue()


def plain(colour: tuple[int, int, int, int], side: int = SIDE) -> Image.Image:
    image = Image.new("RGBA", (side, side))
    image.paste(colour, (side // 4, side // 4, side * 3 // 4, side * 3 // 4))
    return image


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
@pytest.mark.parametrize("side", [64, 256, 72])
def test_a_picture_is_read_at_one_size_with_colours_multiplied_by_opacity(kind: str, side: int) -> None:
    found = read(encoded(plain((200, 100, 0, 128), side), kind))
    assert found.shape == (4, SIDE, SIDE)
    assert found[:, SIDE // 2, SIDE // 2] == pytest.approx([200 / 255 / 2, 100 / 255 / 2, 0, 0.5], abs=0.01)
    assert not found[:, 0, 0].any()
    assert (found[:3] <= found[3:] + 1e-6).all()


@given(st.integers(0, 359), st.integers(0, 359))
def test_a_hue_that_is_shifted_is_where_it_was_shifted_to(own: int, target: int) -> None:
    base = read(encoded(plain((230, 40, 40, 255))))
    start = hue_of(base)
    assert start is not None
    there = shifted(base, own - start)
    found = hue_of(there)
    assert found is not None
    assert apart(found, own) < 2
    again = hue_of(shifted(there, target - own))
    assert again is not None
    assert apart(again, target) < 2


def test_grey_and_many_colours_have_no_hue() -> None:
    assert hue_of(read(encoded(plain((90, 90, 90, 255))))) is None
    rainbow = Image.new("RGBA", (SIDE, SIDE))
    for n, colour in enumerate(("red", "yellow", "lime", "aqua", "blue", "fuchsia")):
        rainbow.paste(colour, (n * 10, 0, n * 10 + 10, SIDE))
    assert hue_of(read(encoded(rainbow))) is None


def test_objects_are_recoloured_but_not_to_their_own_colour_and_some_pairs_are_held_out() -> None:
    pictures = tiny_generator.pictures(colours=True)
    pairs = list(pictures.recoloured)
    assert {pair.colour for pair in pairs} < set(COLOURS)
    assert "red" not in {pair.colour for pair in pairs}, "they are red, or nearly"
    assert 0 < len(pictures.held_out) < len(pairs) / 2
    assert pictures.held_out == tiny_generator.pictures(colours=True).held_out
    for pair in pairs:
        for picture in pictures.of(pair):
            hue = hue_of(picture)
            assert hue is not None
            assert apart(hue, COLOURS[pair.colour or ""]) < 3


def entry(**fields: Any) -> dict[str, Any]:
    return {"hexcode": "1F600", "label": "grinning face", "group": 0, "subgroup": 0} | fields


@pytest.mark.parametrize(
    "fields",
    [
        {"label": "middle finger", "group": 1, "subgroup": 18},
        {"label": "bomb", "group": 7, "subgroup": 78},
        {"label": "syringe", "group": 7, "subgroup": 80},
        {"label": "flag: Italy", "group": 9, "subgroup": 98},
        {"label": "light skin tone", "group": 2, "subgroup": 32},
        {"label": "family", "hexcode": "1F468-200D-1F469", "group": 1, "subgroup": 30},
    ],
)
def test_what_is_not_for_replies_is_in_no_preset(fields: dict[str, Any]) -> None:
    assert _wanted(entry(), "mood", {})
    assert not _wanted(entry(**fields), "mood", CAPTIONS)
    assert not _wanted(entry(**fields), "full", CAPTIONS)


def test_captions_are_each_their_own() -> None:
    every = [text for label, told in CAPTIONS.items() for text in (label, *told.get("says", ()))]
    assert len(every) == len(set(every))
    assert not _NEVER & set(CAPTIONS)
    prompts = files("pipelines.image.training").joinpath("prompts.txt").read_text("utf-8").splitlines()
    assert len(set(prompts)) == 100
    assert not set(prompts) & set(every), "the prompts that are drawn to look at are in words of their own"


@pytest.mark.parametrize(
    ("text", "rest", "colour"),
    [
        ("a green cat", "a cat", "green"),
        ("Dark Blue heart, please", "heart, please", "blue"),
        ("a happy cat", "a happy cat", None),
        ("a cat that is pinkish", "a cat that is", "pink"),
        ("a greenhouse", "a greenhouse", None),
        ("red", "", "red"),
    ],
)
def test_a_colour_is_found_in_a_text(text: str, rest: str, colour: str | None) -> None:
    assert without_colour(text) == (rest, colour)


def test_a_coloured_caption_is_taken_apart_again() -> None:
    for colour in COLOURS:
        assert without_colour(coloured("grinning cat", colour)) == ("grinning cat", colour)
