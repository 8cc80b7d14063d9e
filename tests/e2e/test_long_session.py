"""A session that outgrows the model's context many times over."""

import re
import urllib.request
from itertools import pairwise

import pytest
from websockets.asyncio.client import connect

from tests.support import START_SECONDS, Client, realtime, started, user

TURNS = 200
CONTEXT = 640
ENVIRONMENT = {
    "LOQUENT__PIPELINE__STAGES": '["chat"]',
    "LOQUENT__CHAT__CONTEXT": str(CONTEXT),
    "LOQUENT__CHAT__MAX_TOKENS": "12",
    "LOQUENT__LIMITS__ITEMS": "300",  # which 200 turns outgrow too
}


def computed(address: str) -> int:
    """Tokens of prompts that the model has computed."""
    with urllib.request.urlopen(f"{address}/metrics", timeout=60) as answer:  # noqa: S310 - our own server
        found = re.search(r"^loquent_prompt_tokens_computed_total (\S+)$", answer.read().decode(), re.MULTILINE)
    assert found is not None
    return int(float(found[1]))


@pytest.mark.e2e
@pytest.mark.timeout(2 * START_SECONDS)
async def test_two_hundred_turns_never_fail_and_find_most_of_each_prompt_computed(loquent: str) -> None:
    with started([loquent], ENVIRONMENT) as address:
        async with connect(realtime(address), compression=None) as socket:
            client = Client(socket)
            await client.greet()
            await client.send("session.update", session={"instructions": "Answer in a few words."})
            counts = [computed(address)]
            for number in range(TURNS):
                text = f"This is remark number {number} about the weather in the town of my youth."
                await client.send("conversation.item.create", item=user(text))
                await client.until("conversation.item.done")
                await client.send("response.create")
                done = (await client.until("response.done"))[-1]
                assert done["response"]["status"] in ("completed", "incomplete"), done
                assert done["response"]["usage"]["input_tokens"] < CONTEXT
                counts.append(computed(address))
    each = [after - before for before, after in pairwise(counts)]
    assert max(each) < CONTEXT
    whole = sum(tokens > CONTEXT / 2 for tokens in each)  # turns in which the beginning was cut
    assert 5 < whole < TURNS / 3
    assert sorted(each)[TURNS // 2] < 60, "the others compute what is new"
