"""``loquent listen`` against the real server: files, pipes, and what can't be heard."""

import json
import os
import subprocess
from pathlib import Path

import pexpect
import pytest

from tests.support import needs_portaudio, run

SENTENCE = "The library opens at nine in the morning."


def plain(text: str) -> str:
    return "".join(sign for sign in text.lower() if sign.isalnum() or sign.isspace()).strip().replace("9", "nine")


@pytest.fixture(scope="module")
def recording(loquent: str, server_url: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sound file with the sentence in it."""
    file = tmp_path_factory.mktemp("sound") / "speech.mp3"
    assert run(loquent, "speak", SENTENCE, "-o", file, LOQUENT_URL=server_url).returncode == 0
    return file


@pytest.fixture(scope="module")
def pcm(loquent: str, server_url: str) -> bytes:
    """The sentence as raw sound."""
    command = [loquent, "speak", SENTENCE, "-o", "-", "--format", "pcm", "--url", server_url]
    return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=60, check=True).stdout


def test_the_words_of_a_file_are_printed(loquent: str, server_url: str, recording: Path) -> None:
    outcome = run(loquent, "listen", recording, LOQUENT_URL=server_url)
    assert outcome.returncode == 0, outcome.stderr
    assert plain(outcome.stdout) == plain(SENTENCE)


def test_a_file_on_standard_input_is_read(loquent: str, server_url: str, recording: Path) -> None:
    command = [loquent, "listen", "--url", server_url]
    outcome = subprocess.run(command, input=recording.read_bytes(), capture_output=True, timeout=60, check=True)
    assert plain(outcome.stdout.decode()) == plain(SENTENCE)


def test_subtitles_and_json_have_times(loquent: str, server_url: str, recording: Path) -> None:
    subtitles = run(loquent, "listen", recording, "--format", "srt", LOQUENT_URL=server_url).stdout
    assert subtitles.startswith("1\n00:00:0")
    whole = json.loads(run(loquent, "listen", recording, "--json", LOQUENT_URL=server_url).stdout)
    assert plain(whole["text"]) == plain(SENTENCE)
    assert whole["segments"][0]["end"] > 1
    assert whole["language"] == "en"


def test_live_sound_from_a_pipe_is_printed_turn_by_turn(loquent: str, server_url: str, pcm: bytes) -> None:
    command = [loquent, "listen", "--raw", "--url", server_url]
    given = pcm + bytes(48_000) + pcm
    outcome = subprocess.run(command, input=given, capture_output=True, timeout=100, check=True)
    assert [plain(line) for line in outcome.stdout.decode().splitlines()] == [plain(SENTENCE)] * 2
    outcome = subprocess.run([*command, "--json"], input=pcm, capture_output=True, timeout=100, check=True)
    (turn,) = (json.loads(line) for line in outcome.stdout.splitlines())
    assert plain(turn["text"]) == plain(SENTENCE)
    assert turn["seconds"] > 1


def test_silence_from_a_pipe_prints_nothing(loquent: str, server_url: str) -> None:
    command = [loquent, "listen", "--raw", "--url", server_url]
    outcome = subprocess.run(command, input=bytes(96_001), capture_output=True, timeout=100, check=True)
    assert (outcome.stdout, outcome.stderr) == (b"", b"")


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (("nowhere.mp3",), 2, "can't be read"),
        (("README.md",), 1, "no sound that can be read"),
        (("speech.mp3", "--raw"), 2, "leave out the file"),
        (("--raw", "--translate"), 2, "for files"),
        (("README.md", "--url", "http://127.0.0.1:9"), 3, "loquent serve"),
        (("README.md", "--format", "docx"), 2, "invalid choice"),
    ],
)
def test_what_can_not_be_heard_is_explained(
    loquent: str, server_url: str, words: tuple[str, ...], code: int, says: str
) -> None:
    outcome = run(loquent, "listen", *words, LOQUENT_URL=server_url)
    assert outcome.returncode == code, outcome.stderr
    assert says in outcome.stderr
    assert "Traceback" not in outcome.stderr


def test_odd_names_and_prompts_can_be_sent(loquent: str, server_url: str, recording: Path, tmp_path: Path) -> None:
    odd = tmp_path / 'ö"\n\udcff.mp3'
    odd.write_bytes(recording.read_bytes())
    outcome = run(loquent, "listen", odd, "--prompt", "\udcff é", LOQUENT_URL=server_url)
    assert outcome.returncode == 0, outcome.stderr


@pytest.mark.parametrize("words", [("--raw",), ("-",)])
def test_a_reader_that_has_left_ends_it_quietly(
    loquent: str, server_url: str, pcm: bytes, recording: Path, words: tuple[str, ...]
) -> None:
    given = pcm if words == ("--raw",) else recording.read_bytes()
    command = subprocess.Popen(
        [loquent, "listen", *words, "--url", server_url],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert command.stdout is not None
    command.stdout.close()
    _, errors = command.communicate(given, timeout=60)
    assert command.returncode == 1
    assert b"Traceback" not in errors


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
def test_a_full_disk_is_an_error(loquent: str, server_url: str, recording: Path) -> None:
    with open("/dev/full", "wb") as full:
        outcome = subprocess.run(
            [loquent, "listen", recording, "--url", server_url], stdout=full, stderr=subprocess.PIPE, timeout=60
        )
    assert outcome.returncode == 1
    assert b"Traceback" not in outcome.stderr


@needs_portaudio
def test_without_a_microphone_it_says_so(loquent: str, server_url: str, no_card: dict[str, str]) -> None:
    environment = os.environ | no_card | {"LOQUENT_URL": server_url}
    child = pexpect.spawn(loquent, ["listen"], env=environment, encoding="utf-8", timeout=30)
    child.expect("no microphone")
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 1


@needs_portaudio
def test_the_microphone_is_listened_to_until_ctrl_c(loquent: str, server_url: str, silent_card: dict[str, str]) -> None:
    environment = os.environ | silent_card | {"LOQUENT_URL": server_url}
    child = pexpect.spawn(loquent, ["listen"], env=environment, encoding="utf-8", timeout=30)
    child.expect("Ctrl-C ends")
    child.sendintr()
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 130
