"""``loquent draw`` against the real server, with the bundled generator."""

import io
import json
import os
import subprocess
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pexpect
import pytest
from PIL import Image

from clients.terminal.draw import CHUNK, PROTOCOLS, shows_pictures
from tests.support import run


def shown(path: Path) -> tuple[int, int]:
    with Image.open(path) as image:
        assert "trainedAlgorithmicMedia" in image.info["XML:com.adobe.xmp"]
        return image.size


def test_a_picture_goes_into_a_file_and_json_says_what_it_is(loquent: str, server_url: str, tmp_path: Path) -> None:
    file = tmp_path / "cat.png"
    outcome = run(loquent, "draw", "happy", "cat", "-o", file, "--seed", "3", "--json", LOQUENT_URL=server_url)
    assert outcome.returncode == 0, outcome.stderr
    (told,) = json.loads(outcome.stdout)["images"]
    assert "cat" in told["caption"]
    assert (told["file"], told["seed"]) == (str(file), 3)
    assert shown(file) == (256, 256)
    before = file.read_bytes()
    run(loquent, "draw", "happy cat", "-o", file, "--seed", "3", LOQUENT_URL=server_url)
    assert file.read_bytes() == before, "the same seed draws the same"


def test_several_pictures_are_numbered(loquent: str, server_url: str, tmp_path: Path) -> None:
    options = ["-n", "3", "--size", "64", "--style", "3d", "-o", str(tmp_path / "heart.png")]
    outcome = run(loquent, "draw", "green heart", *options, LOQUENT_URL=server_url)
    assert outcome.returncode == 0, outcome.stderr
    assert sorted(path.name for path in tmp_path.glob("*.png")) == [f"heart-{n}.png" for n in (1, 2, 3)]
    assert {shown(path) for path in tmp_path.glob("*.png")} == {(64, 64)}


def test_what_comes_on_standard_input_is_drawn_and_a_pipe_gets_the_file(
    loquent: str, server_url: str, tmp_path: Path
) -> None:
    file = tmp_path / "piped.png"
    with file.open("wb") as out:
        done = subprocess.run(
            [loquent, "draw"],
            input=b"a sad cat",
            stdout=out,
            stderr=subprocess.PIPE,
            env=os.environ | {"LOQUENT_URL": server_url},
            timeout=60,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    assert shown(file) == (256, 256)


@pytest.mark.parametrize(
    ("arguments", "code", "why"),
    [
        ([], 2, "there is nothing to draw"),
        (["cat", "-o", "cat.jpg"], 2, "name it cat.png"),
        (["cat", "-o", "nowhere/cat.png"], 2, "there is no folder nowhere"),
        (["cat", "-n", "2"], 2, "files of their own"),
        (["cat", "--json"], 2, "needs a file"),
        (["cat", "-n", "11", "-o", "cat.png"], 1, "n: "),
        (["cat", "--size", "100", "-o", "cat.png"], 1, "size: there are 64x64"),
        (["the Eiffel tower", "-o", "cat.png"], 1, "The nearest are"),
        (["cat", "--style", "oil", "-o", "cat.png"], 2, "invalid choice"),
    ],
)
def test_what_can_not_be_drawn_says_why_and_writes_nothing(
    loquent: str, server_url: str, arguments: list[str], code: int, why: str, tmp_path: Path
) -> None:
    outcome = run(loquent, "draw", *arguments, cwd=tmp_path, LOQUENT_URL=server_url)
    assert outcome.returncode == code
    assert why in outcome.stderr
    assert not list(tmp_path.glob("*.*"))


def test_a_server_that_is_not_there_is_said_so(loquent: str, tmp_path: Path) -> None:
    outcome = run(loquent, "draw", "cat", "-o", tmp_path / "cat.png", "--url", "http://127.0.0.1:9")
    assert outcome.returncode == 3
    assert "loquent serve" in outcome.stderr


@pytest.mark.parametrize(
    "body",
    [
        b'{"data": [{"b64_json": "aGFs',
        b'{"data": [{"revised_prompt": "cat"}]}',
        b"[]",
        b'{"data": [{"b64_json": "a"}]}',
    ],
)
def test_an_answer_that_is_not_whole_is_said_so(loquent: str, body: bytes, tmp_path: Path) -> None:
    class Broken(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(body) + (0 if body.endswith((b"]", b"}")) else 100)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Broken) as server:
        thread = threading.Thread(target=server.handle_request, daemon=True)
        thread.start()
        url = f"http://127.0.0.1:{server.server_port}"
        outcome = run(loquent, "draw", "cat", "-o", tmp_path / "cat.png", "--url", url)
        thread.join()
    assert outcome.returncode == 1
    assert "did not arrive whole" in outcome.stderr
    assert "Traceback" not in outcome.stderr
    assert not (tmp_path / "cat.png").exists()


@pytest.mark.parametrize(
    ("environment", "protocol"),
    [
        ({"TERM": "xterm-kitty"}, "kitty"),
        ({"TERM": "xterm-256color", "KITTY_WINDOW_ID": "1"}, "kitty"),
        ({"TERM": "xterm-256color", "TERM_PROGRAM": "ghostty"}, "kitty"),
        ({"TERM": "xterm-256color", "TERM_PROGRAM": "iTerm.app"}, "iterm"),
        ({"TERM": "xterm-256color", "TERM_PROGRAM": "WezTerm"}, "iterm"),
        ({"TERM": "xterm-256color"}, None),
        ({}, None),
    ],
)
def test_terminals_that_show_pictures_are_known(environment: dict[str, str], protocol: str | None) -> None:
    assert shows_pictures(environment) == protocol


def test_a_picture_is_written_as_the_terminals_want_it() -> None:
    file = io.BytesIO()
    Image.effect_noise((128, 128), 90).save(file, "PNG")
    pieces = list(PROTOCOLS["kitty"](file.getvalue()))
    assert len(pieces) > 2
    assert pieces[0].startswith("\x1b_Ga=T,f=100,c=24,m=1;")
    assert all(piece.startswith("\x1b_Gm=1;") for piece in pieces[1:-1])
    assert pieces[-1].startswith("\x1b_Gm=0;")
    assert all(piece.endswith("\x1b\\") and len(piece) <= CHUNK + 40 for piece in pieces)
    (whole,) = PROTOCOLS["iterm"](file.getvalue())
    assert whole.startswith(f"\x1b]1337;File=inline=1;size={len(file.getvalue())};")


def test_a_terminal_that_shows_pictures_gets_one(loquent: str, server_url: str) -> None:
    environment = os.environ | {"LOQUENT_URL": server_url, "TERM": "xterm-kitty"}
    child = pexpect.spawn(loquent, ["draw", "cat"], env=environment, timeout=60)
    child.expect_exact("\x1b_Ga=T,f=100")
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 0
    environment |= {"TERM": "xterm", "TERM_PROGRAM": ""}
    environment.pop("KITTY_WINDOW_ID", None)
    child = pexpect.spawn(loquent, ["draw", "cat"], env=environment, timeout=60)
    child.expect_exact("This terminal shows no pictures")
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 2
