"""A server in a process of its own, which prints its address and runs until it is killed: STORE KEYS_FILE."""

import asyncio
import sys

from server.app import listen, serving, url
from server.config import ServerSettings, Settings
from server.history.settings import HistorySettings
from tests.support import ScriptedModel, scripted_pipeline


async def serve(store: str, keys: str) -> None:
    settings = Settings(server=ServerSettings(keys_file=keys), history=HistorySettings(store=store))
    pipeline, listener = scripted_pipeline(ScriptedModel(["Hi."])), listen("127.0.0.1", 0)
    async with serving(settings, pipeline, listener):
        await pipeline.start(lambda step: None)
        print(url(listener), flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(serve(*sys.argv[1:]))
