"""A process that writes until it is killed: it prints the number of each item once it is stored."""

import asyncio
import sys
from pathlib import Path

from server.history.database import Database
from server.history.interface import PutConversation, PutItem, StoredItem
from server.history.location import file_of
from server.history.postgres import PostgresDatabase
from server.history.sqlite import SqliteDatabase
from server.history.store import DatabaseHistory

AT_ONCE = 5


def database(store: str) -> Database:
    file: Path | None = file_of(store)
    return SqliteDatabase(file) if file else PostgresDatabase(store)


async def write(store: str, conversation: str) -> None:
    history = DatabaseHistory(database(store))
    await history.start()
    await history.record("", conversation, PutConversation())
    number = 0
    while True:
        numbers = range(number, number + AT_ONCE)
        futures = [
            history.record("", conversation, PutItem(StoredItem(str(each), {"text": "x" * 500}))) for each in numbers
        ]
        for each, future in zip(numbers, futures, strict=True):
            await future
            print(each, flush=True)
        number += AT_ONCE


if __name__ == "__main__":
    asyncio.run(write(*sys.argv[1:]))
