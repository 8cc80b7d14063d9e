"""``loquent speak`` against the real server, and the sound card."""

import asyncio
import io
import json
import os
import subprocess
from pathlib import Path

import av
import pexpect
import pytest

from tests.support import (
    ScriptedModel,
    ScriptedVoice,
    needs_portaudio,
    run,
    running,
    scripted_pipeline,
    scripted_speech,
)


def seconds_of(data: bytes) -> float:
    with av.open(io.BytesIO(data), mode="r") as file:
        return sum(frame.samples / frame.sample_rate for frame in file.decode(audio=0))


@pytest.mark.parametrize("suffix", ["mp3", "opus", "ogg", "flac", "wav"])
def test_a_text_is_spoken_into_a_file(loquent: str, server_url: str, tmp_path: Path, suffix: str) -> None:
    file = tmp_path / f"hello.{suffix}"
    outcome = run(loquent, "speak", "Hello there.", "-o", str(file), "--url", server_url)
    assert outcome.returncode == 0, outcome.stderr
    assert 0.4 < seconds_of(file.read_bytes()) < 3
    assert outcome.stdout == ""


def test_standard_input_is_spoken_into_a_pipe(loquent: str, server_url: str) -> None:
    command = [loquent, "speak", "Hello:", "--url", server_url]
    outcome = subprocess.run(command, input=b"there, my friend.", capture_output=True, timeout=60, check=True)
    assert outcome.stdout.startswith(b"RIFF")
    assert seconds_of(outcome.stdout) > 0.8
    short = subprocess.run(
        [*command, "--format", "pcm", "--speed", "3"], input=b"", capture_output=True, timeout=60, check=True
    )
    assert 0 < len(short.stdout) < len(outcome.stdout)


def test_json_tells_of_what_was_written(loquent: str, server_url: str, tmp_path: Path) -> None:
    file = tmp_path / "hello.wav"
    outcome = run(loquent, "speak", "--json", "Hello.", "-o", str(file), "--voice", "nova", "--url", server_url)
    told = json.loads(outcome.stdout)
    assert (told["file"], told["format"], told["bytes"]) == (str(file), "wav", file.stat().st_size)


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        ((), 2, "nothing to say"),
        (("Hi", "-o", "speech.xyz"), 2, "what format"),
        (("Hi", "-o", "/nowhere/x.wav"), 2, "can't be written"),
        (("Hi", "-o", "x.wav", "--speed", "9"), 1, "speed"),
        (("😀", "-o", "x.wav"), 1, "nothing in it"),
        (("Hi", "-o", "x.wav", "--url", "http://127.0.0.1:9"), 3, "loquent serve"),
        (("Hi", "-o", "x.wav", "--url", "nonsense"), 2, "no URL"),
    ],
)
def test_what_can_not_be_done_is_told(
    loquent: str, server_url: str, tmp_path: Path, words: tuple[str, ...], code: int, says: str
) -> None:
    outcome = run(loquent, "speak", *words, cwd=tmp_path, LOQUENT_URL=server_url)
    assert outcome.returncode == code, outcome.stderr
    assert says in outcome.stderr
    assert "Traceback" not in outcome.stderr


async def test_a_sound_that_ends_too_early_is_an_error(loquent: str, tmp_path: Path) -> None:
    pipeline = scripted_pipeline(ScriptedModel(["Hi."]), speech=scripted_speech(ScriptedVoice()))
    async with running(pipeline) as server:
        text = "One two three four five six seven. Now crash."
        outcome = await asyncio.to_thread(
            run, loquent, "speak", text, "-o", str(tmp_path / "x.wav"), "--url", server.url
        )
    assert outcome.returncode == 1
    assert "before its end" in outcome.stderr


@needs_portaudio
def test_a_text_is_spoken_to_the_sound_card(
    loquent: str, server_url: str, tmp_path: Path, silent_card: dict[str, str]
) -> None:
    outcome = run(loquent, "speak", "--json", "Hello there.", "--url", server_url, env=silent_card)
    assert outcome.returncode == 0, outcome.stderr
    assert json.loads(outcome.stdout)["file"] is None
    assert json.loads(outcome.stdout)["bytes"] > 20_000


@needs_portaudio
def test_on_a_terminal_a_text_goes_to_the_sound_card(loquent: str, server_url: str, no_card: dict[str, str]) -> None:
    environment = os.environ | no_card | {"LOQUENT_URL": server_url}
    child = pexpect.spawn(loquent, ["speak", "Hi"], env=environment, encoding="utf-8", timeout=30)
    child.expect("no sound card")
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 1
