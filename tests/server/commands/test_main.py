"""The command line: exit codes, messages that say what to do, and the server's life as a process."""

import asyncio
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from pipelines.build import Pipeline
from pipelines.downloads.cache import cache_folder
from pipelines.downloads.progress import Progress
from server.app import listen
from server.app import run as serve
from server.config import Settings, hash_key
from server.names import public_name
from tests.pipelines.chat.model.test_transformer import tiny_folder
from tests.support import ScriptedModel, run, scripted_pipeline
from tests.tiny_gguf import tiny_gguf
from tests.tiny_voice import tiny_voice


@contextmanager
def served(loquent: str, folder: Path, *words: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The server as a process around a tiny model; its URL."""
    command = [loquent, "serve", "--port", "0", "--model", str(tiny_folder(folder, "llama")), *words]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=folder)
    guard = threading.Timer(60, process.kill)
    guard.start()
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith("Loquent listens on "), line + (process.stderr.read() if process.stderr else "")
        yield process, line.split()[3]
    finally:
        process.kill()
        process.communicate()
        guard.cancel()


def test_the_version_is_printed(loquent: str) -> None:
    assert re.fullmatch(r"loquent \d+\.\d+\.\d+\n", run(loquent, "--version").stdout)


@pytest.mark.parametrize("words", [(), ("nonsense",), ("models", "install"), ("ask",), ("serve", "--port", "x")])
def test_a_wrong_call_exits_with_2_and_says_why(loquent: str, words: tuple[str, ...]) -> None:
    outcome = run(loquent, *words)
    assert outcome.returncode == 2
    assert outcome.stderr
    assert "Traceback" not in outcome.stderr


@pytest.mark.parametrize("command", ["serve", "chat", "ask", "speak", "models", "keys", "widget", "config"])
def test_every_command_has_help(loquent: str, command: str) -> None:
    assert command in run(loquent, "--help").stdout
    outcome = run(loquent, command, "--help")
    assert outcome.returncode == 0
    assert f"usage: loquent {command}" in outcome.stdout


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])  # noqa: S104 - that is the point
def test_beyond_this_machine_the_server_wants_a_key(loquent: str, host: str, tmp_path: Path) -> None:
    outcome = run(loquent, "serve", "--host", host, cwd=tmp_path)
    assert outcome.returncode == 2
    assert "loquent keys new" in outcome.stderr
    assert "--host 127.0.0.1" in outcome.stderr


def test_with_a_key_it_listens_beyond_this_machine(loquent: str, tmp_path: Path) -> None:
    made = run(loquent, "keys", "new")
    key, hashed = (line.split()[1] for line in made.stdout.splitlines())
    assert hash_key(key) == hashed
    (tmp_path / "config.toml").write_text(f'[server]\nkeys = ["{hashed}"]\n')
    with served(loquent, tmp_path, "--host", "0.0.0.0") as (_, url):  # noqa: S104
        here = url.replace("0.0.0.0", "127.0.0.1")  # noqa: S104
        wrong = run(loquent, "ask", "--url", here, "--max-tokens", "2", "Hi")
        assert wrong.returncode == 3
        assert "LOQUENT_API_KEY" in wrong.stderr
        right = run(loquent, "ask", "--url", here, "--max-tokens", "2", "Hi", LOQUENT_API_KEY=key)
        assert right.returncode == 0, right.stderr


def test_a_taken_port_is_said_with_what_to_do(loquent: str, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        outcome = run(loquent, "serve", "--port", str(port), cwd=tmp_path)
    assert outcome.returncode == 1
    assert f"Port {port} on 127.0.0.1 is taken" in outcome.stderr
    assert "--port" in outcome.stderr


def test_a_model_that_is_nowhere_is_said(loquent: str, tmp_path: Path) -> None:
    outcome = run(loquent, "serve", "--port", "0", "--model", "no/such-model", cwd=tmp_path, HF_HUB_OFFLINE="1")
    assert outcome.returncode == 1
    assert "no/such-model" in outcome.stderr
    assert "smollm2-135m-instruct" in outcome.stderr
    assert "Traceback" not in outcome.stderr


def test_a_folder_that_holds_no_working_model_is_said(loquent: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    outcome = run(loquent, "serve", "--port", "0", "--model", str(tmp_path), cwd=tmp_path)
    assert outcome.returncode == 1
    assert "could not be loaded" in outcome.stderr
    assert "Traceback" not in outcome.stderr


@pytest.mark.parametrize("content", [b"GGUF\3\0\0\0", b"12345678", None], ids=["cut", "other", "no tokenizer"])
def test_a_gguf_file_that_can_not_be_read_is_said(loquent: str, tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "own.gguf"
    if content is None:
        tiny_gguf(file, tokenizer=False)
    else:
        file.write_bytes(content)
    outcome = run(loquent, "serve", "--port", "0", "--model", str(file), cwd=tmp_path)
    assert outcome.returncode == 1
    said = "could not be loaded: the file holds no tokenizer" if content is None else f"loquent: {file} is not a "
    assert said in outcome.stderr
    assert "Traceback" not in outcome.stderr


def test_a_gguf_file_in_capitals_is_served_as_it_is(
    loquent: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernels = cache_folder() / "kernels"  # compiled once for all tests
    cache = tmp_path / "cache" / "loquent"
    cache.mkdir(parents=True)
    if kernels.is_dir():
        (cache / "kernels").symlink_to(kernels)
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache.parent))
    monkeypatch.setenv("LOQUENT__PIPELINE__STAGES", '["chat"]')
    file = tiny_gguf(tmp_path / "M.GGUF", architecture="qwen2", kind="Q4_K", width=256)
    body = {"model": "M", "messages": [{"role": "user", "content": "ab"}], "max_tokens": 3}
    with ExitStack() as opened:
        _, url = opened.enter_context(served(loquent, tmp_path, "--model", str(file)))
        response = opened.enter_context(urllib.request.urlopen(f"{url}/v1/models", timeout=60))  # noqa: S310 - ours
        names = [model["id"] for model in json.load(response)["data"]]
        asked = urllib.request.Request(f"{url}/v1/chat/completions", json.dumps(body).encode())  # noqa: S310 - ours
        reply = json.load(opened.enter_context(urllib.request.urlopen(asked, timeout=60)))  # noqa: S310 - ours
    assert names[0] == "M", "its name, as that of any GGUF file"
    assert 0 < reply["usage"]["completion_tokens"] <= 3
    assert not (cache / "models").exists(), "nothing was converted"


@pytest.mark.parametrize("to", ["closed", "without a reader"])
def test_a_server_goes_on_though_its_output_takes_nothing(loquent: str, tmp_path: Path, to: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as found:
        port = found.getsockname()[1]
    words = [loquent, "serve", "--port", str(port), "--model", str(tiny_folder(tmp_path, "llama"))]
    command = ["bash", "-c", 'exec "$@" >&-', "bash", *words] if to == "closed" else words
    reader, writer = os.pipe()
    os.close(reader)
    with subprocess.Popen(command, stdout=writer, stderr=subprocess.PIPE, text=True, cwd=tmp_path) as process:
        os.close(writer)
        outcome = run(loquent, "ask", "--max-tokens", "2", "--url", f"http://127.0.0.1:{port}", "Hi")
        while outcome.returncode == 3 and process.poll() is None:  # it does not listen yet
            outcome = run(loquent, "ask", "--max-tokens", "2", "--url", f"http://127.0.0.1:{port}", "Hi")
        process.terminate()
        _, errors = process.communicate(timeout=60)
    assert outcome.returncode == 0, outcome.stderr + errors
    assert process.returncode == 0
    assert "Traceback" not in errors


def test_a_byte_order_mark_in_the_configuration_is_skipped(loquent: str, tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text("\ufeff[chat]\ncontext = 512\n", encoding="utf-8")
    outcome = run(loquent, "config", "check", cwd=tmp_path)
    assert (outcome.returncode, outcome.stderr) == (0, "")
    assert "chat.context = 512  # config.toml" in outcome.stdout.splitlines()


def test_a_wrong_key_in_the_configuration_exits_with_2(loquent: str, tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text("[chat]\ncontxt = 5\n")
    for command in (("serve",), ("config", "check")):
        outcome = run(loquent, *command, cwd=tmp_path)
        assert outcome.returncode == 2
        assert "'chat.contxt'. Did you mean 'chat.context'" in outcome.stderr


def test_config_check_prints_what_holds_and_where_from(loquent: str, tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text("[chat]\ncontext = 512\n")
    lines = run(loquent, "config", "check", cwd=tmp_path, LOQUENT__SERVER__PORT="9000").stdout.splitlines()
    assert "chat.context = 512  # config.toml" in lines
    assert "server.port = 9000  # environment" in lines
    assert 'server.host = "127.0.0.1"  # default' in lines


def test_models_are_listed_and_installed_by_name(loquent: str) -> None:
    listed = run(loquent, "models", "list").stdout
    assert "smollm2-135m-instruct" in listed
    assert "Apache-2.0" in listed
    installed = run(loquent, "models", "install", "smollm2-135m-instruct")
    assert installed.returncode == 0
    assert ".gguf" in installed.stdout
    unknown = run(loquent, "models", "install", "nobody")
    assert unknown.returncode == 1
    assert "smollm2-135m-instruct" in unknown.stderr


def test_a_client_without_a_server_exits_with_3_and_says_what_to_do(loquent: str) -> None:
    for command in (("ask", "Hi"), ("chat",)):
        outcome = run(loquent, *command, "--url", "http://127.0.0.1:9")
        assert outcome.returncode == 3
        assert "loquent serve" in outcome.stderr
    outcome = run(loquent, "ask", "--url", "nonsense", "Hi")
    assert outcome.returncode == 2


@pytest.mark.parametrize("name", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_server_well(loquent: str, tmp_path: Path, name: signal.Signals) -> None:
    with served(loquent, tmp_path) as (process, _):
        process.send_signal(name)
        _, errors = process.communicate(timeout=30)
        assert process.returncode == 0
        assert "Traceback" not in errors


@pytest.mark.parametrize(("name", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_a_signal_while_the_model_loads_ends_the_server_too(
    loquent: str, tmp_path: Path, name: signal.Signals, code: int
) -> None:
    command = [loquent, "serve", "--port", "0", "--model", str(tiny_folder(tmp_path, "llama"))]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path) as process:
        assert process.stderr is not None
        assert any("loading" in line for line in process.stderr)
        process.send_signal(name)
        out, errors = process.communicate(timeout=60)
    assert process.returncode == code
    assert out == ""
    assert "Traceback" not in errors


async def test_a_preparation_that_can_not_be_stopped_does_not_keep_the_server() -> None:
    release = threading.Event()

    def endless(stop: threading.Event) -> Iterator[Progress]:
        yield Progress("fetching")
        release.wait(60)

    made = scripted_pipeline(ScriptedModel(["Hi"]))
    pipeline = Pipeline([replace(made.parts[0], prepare=endless)])
    stop, shown = asyncio.Event(), asyncio.Event()
    listener = listen("127.0.0.1", 0)
    serving = asyncio.create_task(
        serve(Settings(), pipeline, listener, stop=stop, show=lambda step: shown.set(), ready=lambda url: None)
    )
    await shown.wait()
    stop.set()
    try:
        await asyncio.wait_for(serving, 20)
    finally:
        release.set()


@pytest.mark.parametrize(
    ("path", "name"),
    [("SmolLM2-1.7B-Instruct", "SmolLM2-1.7B-Instruct"), ("own.Q4.gguf", "own.Q4"), ("nowhere/model-1.5", None)],
)
def test_clients_are_told_a_name_and_no_path(path: str, name: str | None, tmp_path: Path) -> None:
    if name is None:
        assert public_name(path) == path
    else:
        (tmp_path / path).touch()
        assert public_name(str(tmp_path / path)) == name


def test_no_message_and_no_key_is_ever_logged(loquent: str, tmp_path: Path) -> None:
    key = "lq-a-key-that-nobody-may-see"
    (tmp_path / "config.toml").write_text(f'[server]\nkeys = ["{hash_key(key)}"]\n')
    with served(loquent, tmp_path, "--log-level", "debug") as (process, url):
        words = ("ask", "--url", url, "--max-tokens", "2", "My password is hunter2")
        assert run(loquent, *words, LOQUENT_API_KEY=key).returncode == 0
        assert run(loquent, *words, LOQUENT_API_KEY=key + "x").returncode == 3
        process.terminate()
        _, errors = process.communicate(timeout=30)
    assert '"level": "info"' in errors, "something is logged, as JSON"
    assert "hunter2" not in errors
    assert key not in errors


def test_the_client_installs_without_the_servers_packages(tmp_path: Path) -> None:
    """Nothing that the client's commands import belongs to the server's extra."""
    script = (
        "import sys\n"
        "blocked = {'torch', 'transformers', 'aiohttp', 'pydantic', 'accelerate', 'prometheus_client', 'numpy'}\n"
        "class Block:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.partition('.')[0] in blocked:\n"
        "            raise ModuleNotFoundError(f'No module named {name!r}', name=name)\n"
        "sys.meta_path.insert(0, Block())\n"
        "from server.commands.main import main\n"
        "print(main(['ask', '--url', 'http://127.0.0.1:9', 'Hi']), main(['serve']))\n"
    )
    outcome = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        timeout=60,
        stdin=subprocess.DEVNULL,
        check=False,
    )
    assert outcome.stdout.split() == ["3", "1"], outcome.stderr
    assert "pip install 'loquent[server]'" in outcome.stderr


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("gone.onnx", None, "There is no voice"),
        ("cut.onnx", b"\x08\x08\x12", "can't be read"),
        ("empty.onnx", b"", "no Piper voice"),
    ],
)
def test_a_voice_that_is_none_is_told_at_the_start(
    loquent: str, tmp_path: Path, name: str, content: bytes | None, says: str
) -> None:
    voice = tmp_path / name
    if content is not None:
        voice.write_bytes(content)
        voice.with_name(name + ".json").write_text("{}")
    model = tiny_folder(tmp_path, "llama")
    outcome = run(
        loquent, "serve", "--port", "0", "--model", str(model), cwd=tmp_path, LOQUENT__SPEECH__VOICE=str(voice)
    )
    assert outcome.returncode == 1
    assert says in outcome.stderr
    assert name in outcome.stderr
    assert "Traceback" not in outcome.stderr


def test_a_voice_in_bad_repair_is_told_when_it_is_loaded(loquent: str, tmp_path: Path) -> None:
    voice = tiny_voice(tmp_path)
    voice.with_name("tiny.onnx.json").write_text("{}")
    model = tiny_folder(tmp_path, "llama")
    outcome = run(
        loquent, "serve", "--port", "0", "--model", str(model), cwd=tmp_path, LOQUENT__SPEECH__VOICE=str(voice)
    )
    assert outcome.returncode == 1
    assert "tiny.onnx.json is not the configuration of a Piper voice" in outcome.stderr


def test_a_configured_voice_is_named_at_the_start(loquent: str, tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text(f'[speech]\nvoice = "{tiny_voice(tmp_path)}"\n')
    with served(loquent, tmp_path) as (_, url):
        spoken = run(loquent, "speak", "Hello.", "-o", str(tmp_path / "x.wav"), "--url", url)
        assert spoken.returncode == 0, spoken.stderr
