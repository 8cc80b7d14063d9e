"""``loquent chat --voice``: a conversation with the microphone, which here hears a recording."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pexpect
import pytest

from tests.support import ROOT, needs_portaudio

PIECE = 4800  # bytes of sound: 0.1 s
BRIEF = ["--instructions", "Answer in one short sentence."]


@pytest.fixture
def hearing_card(loquent: str, server_url: str, tmp_path: Path) -> Iterator[dict[str, str]]:
    """An environment whose microphone hears a question, at the speed of speech, and whose loudspeaker is silent."""
    command = [loquent, "speak", "What is the capital of France?", "-o", "-", "--format", "pcm", "--url", server_url]
    pcm = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=60, check=True).stdout
    pipe = tmp_path / "heard"
    os.mkfifo(pipe)
    left = threading.Event()

    def play() -> None:
        with suppress(BrokenPipeError), pipe.open("wb", buffering=0) as file:
            sound = bytes(48_000) + pcm + bytes(48_000 * 60)
            for begin in range(0, len(sound), PIECE):
                if left.wait(PIECE / 48_000):
                    return
                file.write(sound[begin : begin + PIECE])

    playing = threading.Thread(target=play, daemon=True)
    playing.start()
    file = tmp_path / "asound.conf"
    file.write_text(
        "</usr/share/alsa/alsa.conf>\n"
        "pcm.!default { type asym\n"
        " playback.pcm { type null }\n"
        f' capture.pcm {{ type file slave.pcm null file /dev/null infile "{pipe}" format raw }}\n'
        ' hint { show on description "heard" } }\n'
    )
    yield {"ALSA_CONFIG_PATH": str(file)}
    left.set()
    with suppress(OSError):
        os.close(os.open(pipe, os.O_RDONLY | os.O_NONBLOCK))
    playing.join(5)


@needs_portaudio
def test_what_the_microphone_hears_is_answered(loquent: str, server_url: str, hearing_card: dict[str, str]) -> None:
    environment = os.environ | hearing_card | {"LOQUENT_URL": server_url}
    child = pexpect.spawn(loquent, ["chat", "--voice", *BRIEF], env=environment, encoding="utf-8", timeout=60)
    child.expect("What is the capital of .*[.?]")  # the last word, from a sound card, may be misheard
    child.expect(r"\w+.*[.!]")
    child.sendintr()
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 130


@needs_portaudio
def test_the_example_of_a_voice_assistant_hears_and_answers(server_url: str, hearing_card: dict[str, str]) -> None:
    environment = os.environ | hearing_card | {"LOQUENT_URL": server_url}
    program = [str(ROOT / "examples/clients/voice.py")]
    child = pexpect.spawn(sys.executable, program, env=environment, encoding="utf-8", timeout=60)
    child.expect("Speak; Ctrl-C ends")
    child.expect("You: What is the capital of .*[.?]")
    child.expect(r"Assistant: \w+.*[.!]")
    child.sendintr()
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 0


@needs_portaudio
def test_enter_opens_and_closes_the_microphone(loquent: str, server_url: str, hearing_card: dict[str, str]) -> None:
    environment = os.environ | hearing_card | {"LOQUENT_URL": server_url}
    child = pexpect.spawn(loquent, ["chat", "--push", *BRIEF], env=environment, encoding="utf-8", timeout=60)
    child.expect("Enter begins")
    child.sendline("")
    child.expect("recording")
    time.sleep(3.5)  # as long as the question takes
    child.sendline("")
    child.expect("What is the capital of .*[.?]")  # the last word, from a sound card, may be misheard
    child.expect(r"\w+.*[.!]")
    child.sendline("")
    child.expect("recording")
    child.sendline("")
    child.expect("No speech was heard|a turn needs")
    child.sendintr()
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 130


@needs_portaudio
@pytest.mark.parametrize("option", ["--voice", "--push"])
def test_without_a_sound_card_it_says_so(loquent: str, server_url: str, no_card: dict[str, str], option: str) -> None:
    environment = os.environ | no_card | {"LOQUENT_URL": server_url}
    child = pexpect.spawn(loquent, ["chat", option], env=environment, encoding="utf-8", timeout=30)
    child.expect("no sound card")
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 1
