"""The widget on pages of every kind: nothing is cut off."""

from pathlib import Path

import pytest

from tests.clients.web.pictures import CASES, picture
from tests.clients.web.shop import CHROMIUM

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium on this machine")


@pytest.mark.parametrize("name", CASES)
async def test_everything_fits(name: str, tmp_path: Path) -> None:
    assert await picture(name, tmp_path) == []
    assert (tmp_path / f"widget-{name}.png").stat().st_size > 1000
