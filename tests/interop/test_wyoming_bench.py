"""wyoming-bench: what Home Assistant's protocol gets of the server, asked by a program of somebody else's."""

import asyncio
from pathlib import Path

from tests.clients.wyoming.support import adapting
from tests.interop.peers import PYTHON, QUIET
from tests.support import run

TEXTS = ["The library opens at nine in the morning.", "Please put the cups back on the table when you are done."]


def bench(*words: str | Path) -> str:
    outcome = run(PYTHON.with_name("wyoming-bench"), *words, seconds=110, env=QUIET)
    assert outcome.returncode == 0, outcome.stderr + outcome.stdout
    return outcome.stdout + outcome.stderr


async def test_its_benches_of_speech_and_of_recognition_run_to_their_end(server_url: str, tmp_path: Path) -> None:
    async with adapting(server_url) as port:
        server, corpus = f"127.0.0.1:{port}", tmp_path / "corpus"
        info = await asyncio.to_thread(bench, "info", server)
        assert "whisper-base" in info
        assert "en_US-joe-medium" in info
        once = ("--rounds", "1", "--warmup", "0")
        spoken = await asyncio.to_thread(bench, "tts", server, *once, "--texts", *TEXTS)
        assert "streaming" in spoken
        await asyncio.to_thread(bench, "generate-corpus", server, "--out", corpus, "--texts", *TEXTS)
        assert len(list(corpus.rglob("*.wav"))) == len(TEXTS)
        heard = await asyncio.to_thread(bench, "stt", server, *once, "--corpus", corpus)
        assert "WER" in heard
        for report in (spoken, heard):
            assert "failed" not in report.lower()
