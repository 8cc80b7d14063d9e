"""The tables, and how they came to be: migrations, which are only ever added to."""

from server.history.database import Database, SetupError, Transaction

# Times are microseconds since 1970. ``body``, ``items``, ``metadata`` and ``session`` are JSON in ASCII: any text fits.
# ``expires`` is in seconds, ``leash`` JSON in ASCII, a ``day`` 86,400 seconds since 1970. A ``server`` is one process:
# each sets its own counts and adds none, so that a commit that is tried again counts nothing twice.
MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        """CREATE TABLE loquent_conversations (
            owner TEXT NOT NULL, id TEXT NOT NULL, created BIGINT NOT NULL, changed BIGINT NOT NULL,
            kind TEXT NOT NULL, metadata TEXT NOT NULL, session TEXT NOT NULL, PRIMARY KEY (owner, id))""",
        "CREATE INDEX loquent_conversations_created ON loquent_conversations (owner, created, id)",
        "CREATE INDEX loquent_conversations_changed ON loquent_conversations (changed)",
        """CREATE TABLE loquent_items (
            owner TEXT NOT NULL, conversation TEXT NOT NULL, id TEXT NOT NULL, position BIGINT NOT NULL,
            body TEXT NOT NULL, serial BIGINT NOT NULL, event_id TEXT NOT NULL, PRIMARY KEY (owner, conversation, id),
            FOREIGN KEY (owner, conversation) REFERENCES loquent_conversations (owner, id) ON DELETE CASCADE)""",
        "CREATE INDEX loquent_items_id ON loquent_items (owner, id)",
        """CREATE TABLE loquent_open_responses (
            owner TEXT NOT NULL, conversation TEXT NOT NULL, id TEXT NOT NULL, position BIGINT NOT NULL,
            body TEXT NOT NULL, serial BIGINT NOT NULL, event_id TEXT NOT NULL, PRIMARY KEY (owner, conversation, id),
            FOREIGN KEY (owner, conversation) REFERENCES loquent_conversations (owner, id) ON DELETE CASCADE)""",
        """CREATE TABLE loquent_responses (
            owner TEXT NOT NULL, id TEXT NOT NULL, created BIGINT NOT NULL, changed BIGINT NOT NULL,
            conversation TEXT NOT NULL, parent TEXT NOT NULL, body TEXT NOT NULL, items TEXT NOT NULL,
            PRIMARY KEY (owner, id))""",
        "CREATE INDEX loquent_responses_changed ON loquent_responses (changed)",
        "CREATE INDEX loquent_responses_conversation ON loquent_responses (owner, conversation)",
        """CREATE TABLE loquent_response_items (
            owner TEXT NOT NULL, response TEXT NOT NULL, id TEXT NOT NULL, PRIMARY KEY (owner, response, id),
            FOREIGN KEY (owner, response) REFERENCES loquent_responses (owner, id) ON DELETE CASCADE)""",
        "CREATE INDEX loquent_response_items_id ON loquent_response_items (owner, id)",
        """CREATE TABLE loquent_deletions (
            serial {serial}, owner TEXT NOT NULL, id TEXT NOT NULL, at BIGINT NOT NULL)""",
        "CREATE INDEX loquent_deletions_id ON loquent_deletions (owner, id)",
    ),
    (
        """CREATE TABLE loquent_secrets (
            hash TEXT NOT NULL PRIMARY KEY, id TEXT NOT NULL, owner TEXT NOT NULL, key_id TEXT NOT NULL,
            expires BIGINT NOT NULL, leash TEXT NOT NULL)""",
        "CREATE INDEX loquent_secrets_expires ON loquent_secrets (expires)",
        """CREATE TABLE loquent_secret_turns (
            hash TEXT NOT NULL, server TEXT NOT NULL, turns BIGINT NOT NULL, PRIMARY KEY (hash, server))""",
        """CREATE TABLE loquent_budgets (
            day BIGINT NOT NULL, site TEXT NOT NULL, server TEXT NOT NULL, tokens BIGINT NOT NULL,
            PRIMARY KEY (day, site, server))""",
    ),
    # The server that has the conversation's realtime session in progress; "" where none has claimed it.
    ("ALTER TABLE loquent_conversations ADD COLUMN holder TEXT NOT NULL DEFAULT ''",),
)


async def migrate(database: Database) -> None:
    """Bring the tables up to date. Raises: SetupError where they are a newer version's."""
    async with database.writing() as transaction:
        await database.lock_schema(transaction)
        await transaction.execute("CREATE TABLE IF NOT EXISTS loquent_schema (version BIGINT NOT NULL)")
        version = await _version(transaction)
        if version > len(MIGRATIONS):
            raise SetupError(
                f"The history in {database.where} was written by a newer version of Loquent (its tables have version "
                f"{version}, this one knows {len(MIGRATIONS)}). Update Loquent, or name another [history] store."
            )
        for statements in MIGRATIONS[version:]:
            for sql in statements:
                await transaction.execute(sql.replace("{serial}", database.serial))
        if version == 0:
            await transaction.execute("DELETE FROM loquent_schema")
            await transaction.execute("INSERT INTO loquent_schema (version) VALUES ($1)", len(MIGRATIONS))
        elif version < len(MIGRATIONS):
            await transaction.execute("UPDATE loquent_schema SET version = $1", len(MIGRATIONS))


async def _version(transaction: Transaction) -> int:
    rows = await transaction.fetch("SELECT version FROM loquent_schema")
    return int(rows[0][0]) if rows else 0
