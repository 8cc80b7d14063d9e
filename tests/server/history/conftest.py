"""The databases that every test of the history runs with."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.faults.postgres import Postgres, postgres


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[Postgres | None]:
    """One PostgreSQL server for all tests; None where it is not installed."""
    with postgres() as server:
        yield server


@pytest.fixture
def own_postgres() -> Iterator[Postgres]:
    """A PostgreSQL server for one test, which may stop it."""
    with postgres() as server:
        if server is None:
            pytest.skip("PostgreSQL is not installed")
        yield server


@pytest.fixture(params=["sqlite", "postgresql"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The setting that names an empty database."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/data/history.db"
    server: Postgres | None = request.getfixturevalue("postgres_server")
    if server is None:
        pytest.skip("PostgreSQL is not installed")
    return server.new_database()
