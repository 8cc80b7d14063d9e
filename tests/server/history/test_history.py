"""What is stored is read back, whichever database it is; no owner finds another's."""

import asyncio
import random
from collections.abc import Sequence
from typing import Any

import pytest

from server.history.interface import (
    DropItem,
    DropResponse,
    HistoryError,
    PutConversation,
    PutItem,
    PutResponse,
    StoredItem,
    StoredResponse,
)
from server.history.store import DatabaseHistory
from tests.server.history.databases import history


def item(id: str, text: str = "", **more: Any) -> StoredItem:
    return StoredItem(id, {"id": id, "text": text}, **more)


async def order(stored: DatabaseHistory, owner: str, id: str) -> list[str]:
    found = await stored.load(owner, id)
    assert found is not None
    return [each.id for each in found.items]


async def test_a_conversation_is_read_back_as_it_was_recorded(store: str) -> None:
    first, second = item("i1", "Hi", serial=3, event_id="evt_1"), item("i2", "Ho")
    open = StoredResponse("resp_1", {"status": "in_progress"}, 5, "evt_2")
    async with history(store) as stored:
        await stored.record("a", "conv_1", PutConversation({"voice": "joe"}, {"k": "v"}, created_at=7), PutItem(first))
        await stored.record("a", "conv_1", PutItem(second), PutResponse(open))
    async with history(store) as stored:
        found = await stored.load("a", "conv_1")
        assert found is not None
        assert (found.id, found.owner, found.created_at, found.kind) == ("conv_1", "a", 7, "realtime")
        assert (found.session, found.metadata) == ({"voice": "joe"}, {"k": "v"})
        assert (found.items, found.open) == ((first, second), (open,))


async def test_items_come_where_they_are_put_and_stay_there(store: str) -> None:
    async with history(store) as stored:
        stored.record("", "c", PutConversation(), PutItem(item("b")), PutItem(item("d")))
        stored.record(
            "", "c", PutItem(item("a"), after=""), PutItem(item("c"), after="b"), PutItem(item("e"), after="d")
        )
        assert await order(stored, "", "c") == ["a", "b", "c", "d", "e"]
        stored.record("", "c", PutItem(item("b", "again"), after="d"), PutItem(item("f"), after="gone"))
        assert await order(stored, "", "c") == ["a", "b", "c", "d", "e", "f"]
        stored.record("", "c", DropItem("a"), DropItem("d"), PutItem(item("0"), after=""))
        assert await order(stored, "", "c") == ["0", "b", "c", "e", "f"]


async def test_changes_that_are_applied_twice_do_no_harm(store: str) -> None:
    changes = (
        PutConversation({"s": 1}),
        PutItem(item("b")),
        PutItem(item("a"), after=""),
        PutItem(item("c"), after="a"),
        PutResponse(StoredResponse("r", {})),
        DropResponse("r"),
        DropItem("gone"),
    )
    async with history(store) as stored:
        for _ in range(2):
            await stored.record("", "c", *changes)
            assert await order(stored, "", "c") == ["a", "c", "b"]
        found = await stored.load("", "c")
        assert found is not None
        assert found.open == ()


async def test_a_part_that_is_not_given_stays_as_it_is(store: str) -> None:
    async with history(store) as stored:
        await stored.record("", "c", PutConversation({"s": 1}, {"m": "1"}))
        await stored.record("", "c", PutConversation(session={"s": 2}))
        found = await stored.load("", "c")
        assert found is not None
        assert (found.session, found.metadata) == ({"s": 2}, {"m": "1"})


async def test_no_owner_finds_what_is_anothers(store: str) -> None:
    async with history(store) as stored:
        await stored.record("a", "c", PutConversation({"secret": 1}), PutItem(item("i")))
        await stored.record("b", "c", PutConversation({"mine": 1}))
        for other in ("", "A", "a/1", "a%", "_"):
            assert await stored.load(other, "c") is None
            assert await stored.list(other) == ((), False)
            assert not await stored.delete(other, "c")
            assert not await stored.delete_item(other, "c", "i")
            assert [each async for each in stored.export(other)] == []
            with pytest.raises(HistoryError) as error:
                await stored.record(other, "c", PutItem(item("x")))
            assert error.value.code == "conversation_not_found"
        assert await order(stored, "b", "c") == []
        assert await order(stored, "a", "c") == ["i"]


ODD = ("nul \0", "half \ud800", "quote '\"\\", "漢字 \U0001f600", "%_", "a" * 128)


@pytest.mark.parametrize("odd", ODD, ids=range(len(ODD)))
async def test_any_text_is_stored_as_it_is(store: str, odd: str) -> None:
    async with history(store) as stored:
        await stored.record(odd, odd, PutConversation({odd: odd}, {odd: odd}), PutItem(item(odd, odd, event_id=odd)))
        await stored.record(odd, odd, PutItem(item("next"), after=odd))
        found = await stored.load(odd, odd)
        assert found is not None
        assert (found.id, found.owner, found.session, found.metadata) == (odd, odd, {odd: odd}, {odd: odd})
        assert found.items == (item(odd, odd, event_id=odd), item("next"))
        assert [each async for each in stored.export(odd)] == [found]
        assert await stored.delete(odd, odd)


async def test_a_list_goes_from_page_to_page_in_both_directions(store: str) -> None:
    async with history(store) as stored:
        for number in (3, 1, 2, 5, 4):
            await stored.record("a", f"conv_{number}", PutConversation(created_at=number))
        for newest_first, expected in ((True, ["5", "4", "3", "2", "1"]), (False, ["1", "2", "3", "4", "5"])):
            seen: list[str] = []
            more, after = True, ""
            while more:
                page, more = await stored.list("a", after=after, limit=2, newest_first=newest_first)
                seen += [head.id.removeprefix("conv_") for head in page]
                after = page[-1].id
            assert seen == expected
        with pytest.raises(HistoryError) as error:
            await stored.list("a", after="conv_9")
        assert error.value.code == "conversation_not_found"


async def test_what_waits_is_committed_together_and_in_its_order(store: str) -> None:
    async with history(store) as stored:
        await stored.record("", "c", PutConversation())
        before = stored.metrics.commits._value.get()
        done = [stored.record("", "c", PutItem(item(str(number)))) for number in range(300)]
        await asyncio.gather(*done)
        assert stored.metrics.commits._value.get() - before <= 3
        assert await order(stored, "", "c") == [str(number) for number in range(300)]
        assert stored.writer.held == 0


async def test_what_is_recorded_is_a_copy(store: str) -> None:
    body: dict[str, Any] = {"text": "before"}
    async with history(store) as stored:
        done = stored.record("", "c", PutConversation(), PutItem(StoredItem("i", body)))
        body["text"] = "after"
        await done
        found = await stored.load("", "c")
        assert found is not None
        assert found.items[0].body == {"text": "before"}


async def test_a_deleted_conversation_is_not_created_again_by_what_comes_late(store: str) -> None:
    async with history(store) as stored:
        await stored.record("", "c", PutConversation(), PutItem(item("i")))
        assert await stored.delete("", "c")
        assert not await stored.delete("", "c")
        for change in (PutConversation({"s": 1}), PutItem(item("i")), DropItem("i")):
            with pytest.raises(HistoryError) as error:
                await stored.record("", "c", change)
            assert error.value.code == "conversation_not_found"
        assert await stored.load("", "c") is None


async def test_export_selects_by_owner_conversation_and_last_change(store: str) -> None:
    async with history(store) as stored:
        for owner, id in (("a", "c1"), ("a", "c2"), ("b", "c1")):
            await stored.record(owner, id, PutConversation(created_at=5))

        async def exported(*owner: str, **which: Any) -> set[tuple[str, str]]:
            return {(each.owner, each.id) async for each in stored.export(*owner, **which)}

        everything = {("a", "c1"), ("a", "c2"), ("b", "c1")}
        now = stored.now() // 1_000_000
        assert await exported() == everything
        assert await exported("a") == {("a", "c1"), ("a", "c2")}
        assert await exported("a", conversation="c1") == {("a", "c1")}
        assert await exported(before=now - 10) == set()
        assert await exported(before=now + 10) == everything


async def test_more_conversations_than_a_page_are_exported_and_purged(store: str) -> None:
    async with history(store) as stored:
        await asyncio.gather(*(stored.record("a", f"c{n}", PutConversation(created_at=n % 7)) for n in range(230)))
        assert len({each.id async for each in stored.export()}) == 230
        assert len((await stored.purge("a")).conversations) == 230
        assert [each async for each in stored.export()] == []


def expected(changes: Sequence[PutItem | DropItem]) -> list[tuple[str, str]]:
    """What a list would hold after these changes: ids and texts."""
    items: list[tuple[str, str]] = []
    for change in changes:
        ids = [id for id, _ in items]
        if isinstance(change, DropItem):
            items = [each for each in items if each[0] != change.id]
        elif change.item.id in ids:
            items[ids.index(change.item.id)] = (change.item.id, change.item.body["text"])
        else:
            at = 0 if change.after == "" else len(items)
            at = ids.index(change.after) + 1 if change.after in ids else at
            items.insert(at, (change.item.id, change.item.body["text"]))
    return items


async def test_any_order_of_changes_leaves_what_a_list_would_hold(store: str) -> None:
    chance = random.Random(3)
    scripts: dict[str, list[PutItem | DropItem]] = {}
    for number in range(60):
        script = scripts[f"c{number}"] = []
        for step in range(chance.randrange(1, 25)):
            id = str(chance.randrange(8))
            after = chance.choice(["", None, None, str(chance.randrange(8))])
            script.append(DropItem(id) if chance.random() < 0.25 else PutItem(item(id, str(step)), after))
    async with history(store) as stored:
        for id, script in scripts.items():
            stored.record("", id, PutConversation())
            half = len(script) // 2
            stored.record("", id, *script[:half])
            for change in script[half:]:
                stored.record("", id, change)
        for id, script in scripts.items():
            found = await stored.load("", id)
            assert found is not None
            assert [(each.id, each.body["text"]) for each in found.items] == expected(script), script
