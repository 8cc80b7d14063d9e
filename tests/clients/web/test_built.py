"""The built widget: it is what its sources give, small, and carries the licence of what is in it."""

import gzip

import pytest

from tests.clients.web.shop import WIDGET
from tests.interop.peers import node
from tests.support import ROOT, run

WEB = ROOT / "clients" / "web"
MOST_BYTES = 45 * 1024

pytestmark = pytest.mark.skipif(not (WEB / "node_modules").exists(), reason="make test installs what builds the widget")


def test_the_sources_are_typed() -> None:
    done = run(node(), WEB / "node_modules/typescript/bin/tsc", "--noEmit", cwd=WEB, seconds=300)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_built_file_is_what_the_sources_give() -> None:
    done = run(node(), WEB / "build.mjs", "--check", cwd=WEB, seconds=300)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_page_loads_at_most_45_kilobytes() -> None:
    assert len(gzip.compress(WIDGET.content, 9)) <= MOST_BYTES


def test_the_licence_of_what_is_in_it_is_in_it() -> None:
    text = WIDGET.content.decode()
    assert "Christopher Jeffrey" in text
    assert "Permission is hereby granted" in text
