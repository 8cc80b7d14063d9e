"""The adapter around the real server."""

from collections.abc import AsyncIterator

import pytest

from tests.clients.wyoming.support import adapting


@pytest.fixture
async def port(server_url: str) -> AsyncIterator[int]:
    """The port of an adapter to the real server."""
    async with adapting(server_url) as port:
        yield port
