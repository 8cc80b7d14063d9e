"""The reader of GGUF files: what sound files hold, and that no damaged or hostile one gets through."""

import random
import resource
import struct
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from gguf import GGUFWriter

from pipelines.chat.model import gguf
from pipelines.chat.model.gguf import GgufError, GgufFile, read
from pipelines.chat.model.gguf_blocks import dequantise
from tests.tiny_gguf import tiny_gguf

MUTATIONS = 2000
MUCH_MEMORY = 1 << 20  # bytes; the files mutated have 5 to 40 kB


def text(value: str | bytes) -> bytes:
    data = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(data)) + data


def key(name: str | bytes, kind: int, value: bytes) -> bytes:
    return text(name) + struct.pack("<I", kind) + value


def info(name: str, shape: tuple[int, ...], kind: int = 0, offset: int = 0) -> bytes:
    return text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset)


def header(keys: list[bytes], infos: list[bytes], *, version: int = 3, magic: bytes = b"GGUF") -> bytes:
    start = magic + struct.pack("<IQQ", version, len(infos), len(keys)) + b"".join(keys) + b"".join(infos)
    return start + bytes(-len(start) % 32)


def written(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def refused(tmp_path: Path, data: bytes, reason: str) -> None:
    with pytest.raises(GgufError, match=reason) as caught:
        read(written(tmp_path / "bad.gguf", data))
    assert "bad.gguf" in str(caught.value)


@pytest.mark.parametrize("version", [2, 3])
def test_each_type_of_value_is_read(version: int, tmp_path: Path) -> None:
    numbers = {0: ("B", 200), 1: ("b", -3), 2: ("H", 60000), 3: ("h", -300), 4: ("I", 4 * 10**9), 5: ("i", -7)}
    numbers |= {10: ("Q", 2**63), 11: ("q", -(2**62))}
    keys = [key(f"n{kind}", kind, struct.pack(f"<{code}", value)) for kind, (code, value) in numbers.items()]
    keys += [
        key("half", 6, struct.pack("<f", 0.5)),
        key("third", 12, struct.pack("<d", 1 / 3)),
        key("true", 7, b"\x01"),
        key("text", 8, text("Grüße")),
        key("texts", 9, struct.pack("<IQ", 8, 2) + text("a") + text("")),
        key("counts", 9, struct.pack("<IQ3i", 5, 3, -1, 0, 1)),
        key("lists", 9, struct.pack("<IQ", 9, 1) + struct.pack("<IQ2B", 0, 2, 7, 8)),
    ]
    metadata = read(written(tmp_path / "m.gguf", header(keys, [], version=version))).metadata
    assert {name: metadata[f"n{name}"] for name in numbers} == {name: value for name, (_, value) in numbers.items()}
    assert (metadata["half"], metadata["third"], metadata["true"]) == (0.5, 1 / 3, True)
    assert (metadata["text"], metadata["texts"]) == ("Grüße", ["a", ""])
    assert isinstance(counts := metadata["counts"], np.ndarray)
    assert counts.tolist() == [-1, 0, 1]
    assert isinstance(lists := metadata["lists"], list)
    assert [inner.tolist() for inner in lists] == [[7, 8]]


def test_a_tensor_is_a_view_of_the_file_in_pytorchs_order(tmp_path: Path) -> None:
    data = np.arange(6, dtype=np.float32)
    path = written(tmp_path / "m.gguf", header([], [info("w", (3, 2))]) + data.tobytes())
    tensor = read(path).tensors["w"]
    assert (tensor.shape, tensor.kind, tensor.size) == ((2, 3), "F32", 24)
    assert dequantise(tensor.raw(), tensor.kind, tensor.shape).tolist() == [[0, 1, 2], [3, 4, 5]]
    tensor.raw().fill_(0)
    assert path.read_bytes().endswith(data.tobytes())


def test_pages_that_were_given_back_are_read_again(tmp_path: Path) -> None:
    tensors = read(tiny_gguf(tmp_path / "m.gguf")).tensors
    before = {name: tensor.raw().clone() for name, tensor in tensors.items()}
    for tensor in tensors.values():
        tensor.drop_pages()
    assert all(torch.equal(tensor.raw(), before[name]) for name, tensor in tensors.items())


def test_the_files_own_alignment_places_the_tensors(tmp_path: Path) -> None:
    start = header([key("general.alignment", 4, struct.pack("<I", 1024))], [info("w", (1,))])
    data = start + bytes(-len(start) % 1024) + struct.pack("<f", 2.0)
    tensor = read(written(tmp_path / "m.gguf", data)).tensors["w"]
    assert dequantise(tensor.raw(), "F32", (1,)).item() == 2.0


@pytest.mark.parametrize("data", [b"", b"GGU", b"GGML" + bytes(100), b"\x00" * 100])
def test_a_file_that_begins_otherwise_is_no_gguf_file(data: bytes, tmp_path: Path) -> None:
    refused(tmp_path, data, "does not begin like one")


DEEP = struct.pack("<IQ", 9, 1) * 9
HOSTILE = {
    "an old version": (header([], [], version=1), "version 1 is neither"),
    "the other byte order": (header([], [], version=3 << 24), "big-endian"),
    "nothing after the magic": (b"GGUF", "ends too early"),
    "a huge count of tensors": (b"GGUF" + struct.pack("<IQQ", 3, 2**64 - 1, 0), "tensors are more than"),
    "more tensors than fit": (b"GGUF" + struct.pack("<IQQ", 3, 60000, 0), "tensors do not fit"),
    "a huge count of keys": (b"GGUF" + struct.pack("<IQQ", 3, 0, 2**63), "keys are more than"),
    "more keys than fit": (b"GGUF" + struct.pack("<IQQ", 3, 0, 16000), "keys do not fit"),
    "a huge key": (b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 2**62) + bytes(9), "a metadata key: a text of"),
    "an empty key": (header([key("", 0, b"\x01")], []), "key is empty"),
    "a key that is not UTF-8": (header([key(b"\xff", 0, b"\x01")], []), "not UTF-8"),
    "a key twice": (header([key("k", 0, b"\x01")] * 2, []), "key 'k' comes twice"),
    "an unknown value type": (header([key("k", 13, bytes(8))], []), "'k': value type 13"),
    "an unknown element type": (header([key("k", 9, struct.pack("<IQ", 77, 1))], []), "value type 77"),
    "a truth value of 2": (header([key("k", 7, b"\x02")], []), "neither 0 nor 1"),
    "a huge text": (header([key("k", 8, struct.pack("<Q", 2**64 - 1))], []), "a text of .* is longer"),
    "a text beyond the end": (header([key("k", 8, struct.pack("<Q", 9999))], []), "ends too early"),
    "a text that is not UTF-8": (header([key("k", 8, text(b"\xc3\x28"))], []), "'k': a text is not UTF-8"),
    "a huge array of numbers": (header([key("k", 9, struct.pack("<IQ", 10, 2**61))], []), "ends too early"),
    "a huge array of texts": (header([key("k", 9, struct.pack("<IQ", 8, 2**61))], []), "elements are more"),
    "more texts than fit": (header([key("k", 9, struct.pack("<IQ", 8, 2**20))], []), "elements do not fit"),
    "a text in an array beyond the end": (
        header([key("k", 9, struct.pack("<IQQ", 8, 1, 2**63))], []), "ends inside of it"),
    "arrays in arrays without end": (header([key("k", 9, DEEP)], []), "more than 4 deep"),
    "an alignment of 0": (header([key("general.alignment", 4, bytes(4))], []), "power of two"),
    "an alignment of 24": (header([key("general.alignment", 4, struct.pack("<I", 24))], []), "power of two"),
    "a huge alignment": (header([key("general.alignment", 4, struct.pack("<I", 2**31))], []), "power of two"),
    "an alignment that is a text": (header([key("general.alignment", 8, text("32"))], []), "power of two"),
    "an alignment that is true": (header([key("general.alignment", 7, b"\x01")], []), "power of two"),
    "no dimensions": (header([], [info("w", ())]), "'w' has 0 dimensions"),
    "many dimensions": (header([], [text("w") + struct.pack("<I", 2**32 - 1) + bytes(64)]), "4294967295 dimensions"),
    "a dimension of 0": (header([], [info("w", (4, 0))]) + bytes(64), "no values"),
    "dimensions whose product overflows": (header([], [info("w", (2**32, 2**32))]) + bytes(64), "beyond the file"),
    "dimensions whose product is small after an overflow": (
        header([], [info("w", (2**62, 4, 1, 1))]) + bytes(64), "beyond the file"),
    "an unknown tensor type": (header([], [info("w", (4,), kind=4)]) + bytes(64), "unknown type 4"),
    "a row that is no whole blocks": (header([], [info("w", (48, 2), kind=2)]) + bytes(64), "multiple of Q4_0's 32"),
    "an offset beyond the file": (header([], [info("w", (4,), offset=2**40)]) + bytes(64), "beyond the file"),
    "an offset that overflows": (header([], [info("w", (4,), offset=2**64 - 32)]) + bytes(64), "beyond the file"),
    "an offset out of line": (header([], [info("w", (4,), offset=8)]) + bytes(64), "multiple of 32"),
    "a tensor that is cut short": (header([], [info("w", (16,))]) + bytes(63), "beyond the file's end"),
    "a tensor twice": (header([], [info("w", (4,)), info("w", (4,), offset=32)]) + bytes(64), "'w' comes twice"),
    "a tensor without a name": (header([], [info("", (4,))]) + bytes(64), "name is empty"),
    "tensors in the same bytes": (header([], [info("a", (4,)), info("b", (4,))]) + bytes(64), "'a' and 'b' overlap"),
    "tensors that overlap by a bit": (
        header([], [info("a", (16,)), info("b", (4,), offset=32)]) + bytes(64), "overlap"),
}  # fmt: skip


@pytest.mark.parametrize("what", HOSTILE)
def test_a_hostile_file_is_refused_by_name(what: str, tmp_path: Path) -> None:
    refused(tmp_path, *HOSTILE[what])


def test_arrays_of_empty_texts_have_a_common_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gguf, "MAX_ITEMS", 100)
    array = struct.pack("<IQ", 8, 60) + bytes(60 * 8)
    refused(tmp_path, header([key("a", 9, array), key("b", 9, array)], []), "more than 100 elements")


def test_a_header_without_end_is_not_read_to_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gguf, "HEADER_BYTES", 1000)
    refused(tmp_path, header([key("a", 8, text("x" * 2000))], []), "ends too early")


@pytest.mark.parametrize("cut", range(0, 300, 7))
def test_a_file_cut_anywhere_is_refused(cut: int, tmp_path: Path) -> None:
    data = tiny_gguf(tmp_path / "whole.gguf").read_bytes()
    with pytest.raises(GgufError):
        read(written(tmp_path / "cut.gguf", data[: len(data) * cut // 300]))


def originals(folder: Path) -> list[bytes]:
    files = [
        tiny_gguf(folder / "llama.gguf"),
        tiny_gguf(folder / "qwen.gguf", architecture="qwen2", kind="Q8_0", width=32, tied=True),
        tiny_gguf(folder / "bare.gguf", tokenizer=False),
    ]
    writer = GGUFWriter(folder / "data.gguf", "llama")
    writer.add_array("nested", [[1, 2], [3]])
    writer.add_array("texts", ["x", "yy", "zzz"])
    writer.add_bool("flag", True)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return [path.read_bytes() for path in (*files, folder / "data.gguf")]


NUMBERS = (0, 1, 2, 3, 7, 8, 9, 31, 255, 2**16, 2**31 - 1, 2**32 - 1, 2**32, 2**61, 2**62, 2**63, 2**64 - 32, 2**64 - 1)


def mutated(data: bytes, chance: random.Random) -> bytes:
    """The file with one to four things wrong: most are done to its header, where a number means something."""
    for _ in range(chance.choice((1, 1, 2, 4))):
        end = min(len(data), 3000) if chance.random() < 0.9 else len(data)
        at = chance.randrange(max(1, end))
        match chance.randrange(6):
            case 0:  # a bit
                data = data[:at] + bytes([data[at] ^ 1 << chance.randrange(8)]) + data[at + 1 :] if data else data
            case 1:  # the end
                data = data[:at]
            case 2:  # a count, a length, an offset
                value = chance.choice(NUMBERS) + chance.choice((-1, 0, 0, 1)) & 2**64 - 1
                data = data[:at] + struct.pack("<Q", value) + data[at + 8 :]
            case 3:  # a type, a version, a count of dimensions
                data = data[:at] + struct.pack("<I", chance.choice(NUMBERS) & 2**32 - 1) + data[at + 4 :]
            case 4:  # a section at another's place
                size, other = chance.choice((4, 8, 33, 200)), chance.randrange(max(1, end))
                low, high = sorted((at, other))
                low_part, high_part = data[low : low + size], data[high : high + size]
                middle = data[low + size : high]
                data = data[:low] + high_part + middle + low_part + data[high + size :]
            case 5:  # bytes too many, or bytes that came before
                other = chance.randrange(max(1, end))
                data = data[:at] + data[other : other + chance.choice((1, 8, 100))] + data[at:]
    return data


def known_counts(data: bytes) -> Iterator[bytes]:
    """The file with each of its first counts replaced by each of the odd numbers, at its true place."""
    for at in (4, 8, 16, 24):
        for value in NUMBERS:
            yield data[:at] + struct.pack("<Q", value) + data[at + 8 :]


def consistent(file: GgufFile, size: int) -> None:
    """What was read can be used: each tensor lies in the file, and its bytes can be decoded."""
    for tensor in file.tensors.values():
        assert tensor.offset + tensor.size <= size
        assert tensor.raw().numel() == tensor.size


def test_no_mutation_does_more_than_to_be_read_or_refused(tmp_path: Path) -> None:
    chance = random.Random(15)
    sound = originals(tmp_path)
    broken = [mutated(chance.choice(sound), chance) for _ in range(MUTATIONS)]
    broken += [data for original in sound for data in known_counts(original)]
    refusals = set()
    read(written(tmp_path / "0.gguf", sound[0]))  # what is loaded once
    tracemalloc.start()
    try:
        for data in broken:
            path = written(tmp_path / "m.gguf", data)
            tracemalloc.reset_peak()
            before = tracemalloc.get_traced_memory()[0]
            try:
                consistent(read(path), len(data))
            except GgufError as error:
                refusals.add(str(error).partition(":")[2])
            assert tracemalloc.get_traced_memory()[1] - before < MUCH_MEMORY
    finally:
        tracemalloc.stop()
    assert len(refusals) > 50


def test_a_hostile_file_takes_no_memory_outside_of_pythons_own_either(tmp_path: Path) -> None:
    read(tiny_gguf(tmp_path / "sound.gguf"))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for number, (data, _) in enumerate(HOSTILE.values()):
        with pytest.raises(GgufError):
            read(written(tmp_path / f"{number}.gguf", data))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 32 * 1024  # KiB
