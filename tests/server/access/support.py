"""A server with keys, and what its clients send."""

import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from server.access.key_file import change_keys
from server.access.keys import DEFAULT_SCOPES, make_key
from server.config import Settings
from tests.support import Running, ScriptedModel, running

Json = dict[str, Any]


def new_key(
    path: Path, name: str = "shop", scopes: Sequence[str] = DEFAULT_SCOPES, expires_at: int | None = None
) -> str:
    """A key that is in the file."""
    key, known = make_key(name, scopes, None, time.time())
    change_keys(path, lambda keys: [*keys, replace(known, expires_at=expires_at)])
    return key


def revoke(path: Path, name: str) -> None:
    change_keys(path, lambda keys: [key for key in keys if key.name != name])


def bearer(key: str | None) -> dict[str, str]:
    return {} if key is None else {"Authorization": f"Bearer {key}"}


@dataclass
class Guarded:
    """A running server whose keys are in a file."""

    server: Running
    file: Path

    async def secret(self, key: str | None, expected: int = 200, **body: Any) -> Json:
        """A client secret, made with a key."""
        url = f"{self.server.url}/v1/realtime/client_secrets"
        async with self.server.http.post(url, json=body, headers=bearer(key)) as answer:
            made: Json = await answer.json()
            assert answer.status == expected, made
            return made

    def look(self) -> None:
        """See changes of the file now, not in a second."""
        self.server.backend.access.keyring._looked = float("-inf")
        self.server.backend.access.keyring.refresh()


@asynccontextmanager
async def guarded(file: Path, model: ScriptedModel | None = None, **sections: Any) -> AsyncIterator[Guarded]:
    """The server, around a scripted model."""
    given = Settings(**sections)
    settings = given.model_copy(update={"server": given.server.model_copy(update={"keys_file": str(file)})})
    async with running(model or ScriptedModel(["Hi"]), settings) as server:
        yield Guarded(server, file)
