"""From the settings to the history."""

from server.history.database import Database, SetupError
from server.history.location import file_of
from server.history.settings import HistorySettings
from server.history.store import DatabaseHistory


def build(settings: HistorySettings) -> DatabaseHistory | None:
    """The configured history, which the caller starts and closes; None where nothing is stored.

    Raises: SetupError where the database's package is not installed.
    """
    if settings.store == "none":
        return None
    return DatabaseHistory(
        _database(settings.store),
        days=settings.days,
        patience=settings.patience,
        queue_bytes=settings.queue_bytes,
    )


def _database(store: str) -> Database:
    try:
        if file := file_of(store):
            from server.history.sqlite import SqliteDatabase

            return SqliteDatabase(file)
        from server.history.postgres import PostgresDatabase

        return PostgresDatabase(store)
    except ModuleNotFoundError as error:
        if error.name not in ("aiosqlite", "asyncpg"):
            raise
        text = f"[history] store needs the package {error.name}: pip install 'loquent[history]'"
        raise SetupError(text, usage=True) from None
