"""``loquent train image``: from packages to a generator that a server loads, in parts, and what it refuses."""

import io
import json
import signal
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from pipelines.downloads.cache import sha256
from pipelines.image.training import dataset as pictures
from pipelines.image.training import measure, train
from pipelines.image.training.report import PARTS
from pipelines.image.weights import load
from server.commands.failure import Exit, Failure
from server.commands.train_image import ImageTraining, train_image
from tests import tiny_generator
from tests.support import run

pytestmark = pytest.mark.timeout(900)  # real training, which takes its time where another process has the cores

EMOJI = (  # of emojibase: code, label, subgroup
    ("1F600", "grinning face", 0),
    ("1F622", "crying face", 9),
    ("1F63A", "grinning cat", 12),
    ("2764-FE0F", "red heart", 14),
    ("1F49A", "green heart", 14),
    ("1F44D", "thumbs up", 19),
    ("1F436", "dog face", 34),
    ("1F339", "rose", 40),
)


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, minilm: Path) -> Path:
    """Small packages of the same structure in a cache of their own, beside the real embedding model."""
    cache = tmp_path / "cache"
    corpora = cache / "loquent" / "corpora"
    corpora.mkdir(parents=True)
    (cache / "loquent" / "packages").mkdir()
    (cache / "loquent" / "packages" / minilm.name).symlink_to(minilm)
    entries = [
        {"hexcode": code, "label": label, "tags": ["tag"], "group": 0, "subgroup": subgroup}
        for code, label, subgroup in EMOJI
    ]
    contents: dict[str, dict[str, bytes]] = {"captions": {"package/en/data.json": json.dumps(entries).encode()}}
    for n, (style, folder) in enumerate(pictures._FOLDERS.items()):
        contents[style] = {}
        for k, (code, _, _) in enumerate(EMOJI):
            shape = tiny_generator.pictures().pixels[k, n].transpose(1, 2, 0).copy()
            shape[..., :3] /= shape[..., 3:].clip(1e-3)
            file = io.BytesIO()
            Image.fromarray((shape.clip(0, 1) * 255).astype("uint8")).save(file, "PNG")
            contents[style][f"{folder}{code.lower()}.png"] = file.getvalue()
    archives = {"captions": pictures.CAPTIONS, **pictures.STYLES}
    for name, files in contents.items():
        archive = archives[name]
        path = corpora / f"{archive.name.strip('@').replace('/', '-')}-{archive.version}.tgz"
        with tarfile.open(path, "w:gz") as out:
            for inside, content in files.items():
                member = tarfile.TarInfo(inside)
                member.size = len(content)
                out.addfile(member, io.BytesIO(content))
        archives[name] = replace(archive, sha256=sha256(path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    monkeypatch.setattr(pictures, "CAPTIONS", archives.pop("captions"))
    monkeypatch.setattr(pictures, "STYLES", archives)
    monkeypatch.setitem(train.PRESETS, "mood", tiny_generator.preset(12))
    monkeypatch.setattr(measure, "FEATURE_STEPS", 3)
    return cache


def test_a_generator_is_trained_in_parts_and_loaded(
    packages: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "generator"
    asked = ImageTraining("mood", str(out))
    assert train_image(replace(asked, minutes=1e-9)) is False
    told = capsys.readouterr()
    assert "Stopped at step" in told.out
    assert not out.exists()
    checkpoint = packages / "loquent" / "image" / "mood-seed0.pt"
    assert checkpoint.is_file()
    train_image(asked)
    told = capsys.readouterr()
    assert f'weights = "{out}"' in told.out
    assert "training mood" in told.err
    assert {path.name for path in out.iterdir()} == PARTS
    drawer = load(out)
    assert [label for label, _, _ in drawer.words.concepts] == [label for _, label, _ in EMOJI]
    assert drawer.words.concepts[2][2], "the cat has colours"
    assert drawer.words.about["steps"] == 12
    report, card = (out / "report.html").read_text(), (out / "MODEL_CARD.md").read_text()
    for text in (report, card):
        assert "The true picture is the nearest" in text or "the true picture is the nearest" in text
        assert "KID" in text
    assert "CC-BY-4.0" in (out / "ATTRIBUTION.md").read_text()
    with Image.open(out / "unseen.png") as image:
        assert image.width > 1000
    first = (out / "image.safetensors").read_bytes()
    train_image(asked)
    assert (out / "image.safetensors").read_bytes() == first, "a generator may be replaced, and is the same again"
    checkpoint.unlink()
    train_image(asked)
    assert (out / "image.safetensors").read_bytes() == first, "from its beginning too"


def test_an_interrupt_keeps_what_was_learned(packages: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    advance = train.Run.advance

    def interrupted(self: train.Run) -> dict[str, float]:
        if self.step == 5:
            signal.raise_signal(signal.SIGINT)
        return advance(self)

    monkeypatch.setattr(train.Run, "advance", interrupted)
    before = signal.getsignal(signal.SIGINT)
    assert train_image(ImageTraining("mood", str(tmp_path / "out"))) is True
    assert signal.getsignal(signal.SIGINT) is before
    kept: dict[str, Any] = torch.load(packages / "loquent" / "image" / "mood-seed0.pt", weights_only=True)
    assert kept["step"] == 6
    assert not torch.are_deterministic_algorithms_enabled()


def test_an_interrupt_while_it_is_measured_ends_it_too(
    packages: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    features = measure.train_features

    def interrupted(*given: Any, **named: Any) -> Any:
        signal.raise_signal(signal.SIGTERM)
        return features(*given, **named)

    monkeypatch.setattr(measure, "train_features", interrupted)
    assert train_image(ImageTraining("mood", str(tmp_path / "out"))) is True
    assert not (tmp_path / "out").exists()
    monkeypatch.undo()


def test_a_folder_with_something_else_in_it_is_not_replaced(tmp_path: Path) -> None:
    folder = tmp_path / "generator"
    folder.mkdir()
    (folder / "photo.jpg").write_text("mine")
    with pytest.raises(Failure, match=r"holds photo\.jpg") as caught:
        train_image(ImageTraining("mood", str(folder)))
    assert caught.value.code is Exit.USAGE


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["image", "--minutes", "-1"], "--minutes"),
        (["image", "--alpha", "0"], "--alpha means nothing"),
        (["anomaly", "--minutes", "0"], "--minutes means nothing"),
        (["image", "--seed", "4294967296"], "--seed is a number"),
        (["image", "--seed", "-1"], "--seed is a number"),
        (["image", "--normal", "x.jsonl"], "--normal means nothing"),
        (["anomaly", "--preset", "mood"], "--preset means nothing"),
        (["image", "--preset", "huge"], "invalid choice"),
    ],
)
def test_options_that_do_not_belong_are_named(loquent: str, arguments: list[str], why: str, tmp_path: Path) -> None:
    outcome = run(loquent, "train", *arguments, cwd=tmp_path)
    assert outcome.returncode == 2
    assert why in outcome.stderr
