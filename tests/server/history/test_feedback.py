"""Feedback in a history: there after a restart, over HTTP and in an export, in either database."""

import json
from typing import Any

from server.config import Settings
from server.history.settings import HistorySettings
from tests.server.history.test_command import command
from tests.server.test_feedback import RECORDED, rate, replied
from tests.server.test_recorded import conversation_of, items_of
from tests.server.test_resuming import back, cut, greeted
from tests.support import ScriptedModel, running

GIVEN = {"feedback": {"rating": "down", "comment": "It is 30 €, not 20. \U0001f642\x00"}}


async def test_feedback_survives_a_restart_and_is_exported(loquent: str, store: str) -> None:
    settings = Settings(history=HistorySettings(store=store, days=0))
    async with running(ScriptedModel(["Hi."]), settings) as server, server.client() as client:
        token = await greeted(client)
        rated, taken_back = await replied(client), await replied(client)
        await rate(client, rated, **GIVEN["feedback"])
        await rate(client, taken_back, rating="up")
        await rate(client, taken_back, rating=None)
        await cut(server, client)

    def notes(items: list[dict[str, Any]]) -> list[Any]:
        return [item.get("loquent") for item in items]

    expected = [None, GIVEN, None, None]
    async with running(ScriptedModel(["Hi."]), settings) as server:
        assert notes(await items_of(server, conversation_of(client))) == expected
        async with back(server, token, client.seen[-1]["event_id"]) as again:
            await again.expect("session.updated")
            await again.send("conversation.item.retrieve", item_id=rated)
            (retrieved,) = await again.expect("conversation.item.retrieved")
            assert retrieved["item"]["loquent"] == GIVEN
            await again.send("loquent.feedback", item_id=rated, rating="up")  # of before the restart, changed after it
            await again.expect(RECORDED)
        expected[1] = {"feedback": {"rating": "up"}}
        assert notes(await items_of(server, conversation_of(client))) == expected
    exported = command(loquent, "export", store=store)
    assert notes(json.loads(exported.stdout)["items"]) == expected
