"""Bodies that are almost right: none is the server's fault, and every secret that is made begins a session."""

import itertools
import random
from pathlib import Path

from server.access.secrets import whole_leash
from server.config import LimitSettings
from server.realtime import session, wire
from server.realtime.session import State
from tests.mutations import mutated
from tests.server.access.support import Json, bearer, guarded, new_key
from tests.server.test_mutated_bodies import almost

BODIES = 3000
BODY: Json = {
    "expires_after": {"anchor": "created_at", "seconds": 60},
    "session": {
        "type": "realtime",
        "model": "gpt-realtime",
        "instructions": "You sell shoes.",
        "output_modalities": ["audio"],
        "audio": {
            "input": {"format": {"type": "audio/pcm", "rate": 24000}, "turn_detection": {"type": "server_vad"}},
            "output": {"voice": "alloy", "speed": 1.0},
        },
        "tools": [{"type": "function", "name": "buy", "parameters": {"type": "object"}}],
        "tool_choice": "auto",
        "max_output_tokens": "inf",
        "truncation": {"type": "retention_ratio", "retention_ratio": 0.5},
        "prompt": {"id": "p"},
        "loquent": {"sampling": {"temperature": 0.5}, "image": False},
    },
    "loquent": {"locked": ["instructions", "audio.output.voice"], "turns": 3, "seconds": 9.5, "connections": 1},
}


async def test_any_body_is_answered_and_every_secret_begins_a_session(tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    key, chance = new_key(file), random.Random(7)
    texts = itertools.cycle(mutated(7, 500))
    made = 0
    async with guarded(file, limits=LimitSettings(rates="off")) as given:
        backend, url = given.server.backend, f"{given.server.url}/v1/realtime/client_secrets"
        for _ in range(BODIES):
            async with given.server.http.post(url, json=almost(BODY, chance, texts), headers=bearer(key)) as answer:
                body: Json = await answer.json()
                assert answer.status in (200, 400, 413), body
            if answer.status != 200:
                assert body["error"]["message"]
                continue
            made += 1
            secret = backend.access.secrets.find(body["value"])
            assert secret is not None
            state = State(id="s", names=backend.names, limits=backend.settings.limits, leash=whole_leash(secret))
            state, outputs = session.advance(state, session.Connected())
            (created, *_) = outputs
            assert isinstance(created, wire.SessionCreated)
            begun, said = created.session.model_dump(mode="json"), body["session"]
            assert begun | {"id": ""} == said | {"id": ""}, "it begins as the answer said"
    assert BODIES // 10 < made < BODIES
