"""The bench of restarts, small: a server in this process, a real PostgreSQL and a real Redis."""

import pytest

from bench.faults.postgres import postgres
from bench.faults.redis import redis
from bench.faults.restarts import Restarted, amid, settings
from bench.faults.stories import Found
from server.config import Settings
from tests.bench.test_faults import here, reply
from tests.support import ScriptedModel, running


@pytest.mark.timeout(120)
async def test_nothing_acknowledged_is_lost_while_the_database_and_redis_are_restarted() -> None:
    with postgres() as database, redis() as store:
        if database is None or store is None:
            pytest.skip("PostgreSQL, or both redis-server and valkey-server, are not installed")
        sections: dict[str, dict[str, object]] = {}
        for key, value in settings(database.new_database(), store.url).items():
            section, _, name = key.partition(".")
            sections.setdefault(section, {})[name] = value
        async with running(ScriptedModel(reply), Settings.model_validate(sections)) as server:
            found = await amid(here(server), database, store, 3, times=2, calm=1.0)
    assert found.found.wrong == []
    assert found.shared, "Redis is used again"
    assert found.found.turns >= 5
    assert set(found.found.ends) <= {"incomplete max_output_tokens", "failed history_unavailable"}, found
    assert "2 × restarted" in str(found)


def test_a_conversation_that_lost_something_is_bad() -> None:
    found = Restarted(Found(turns=5, seconds=[1.0, 2.0]), {"Redis": 2}, shared=True)
    assert found.good
    found.found.wrong.append("something")
    assert not found.good
    assert "1 wrong" in str(found)
