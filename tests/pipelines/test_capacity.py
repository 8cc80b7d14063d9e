"""Capacity: who may hold how much of it."""

import pytest

from pipelines.capacity import Capacity
from pipelines.events import StageError


def code(capacity: Capacity, tenant: str) -> str:
    with pytest.raises(StageError) as error:
        capacity.acquire(tenant)
    return error.value.code


def test_the_visitors_of_a_site_share_as_one_with_its_key() -> None:
    capacity = Capacity(8, "streams")
    for tenant in ("shop", "shop/1", "shop/2", "shop/2", "shop/3", "shop/4"):
        capacity.acquire(tenant)
    assert code(capacity, "shop/5") == code(capacity, "shop") == "too_many_requests"
    capacity.acquire("other/1")
    capacity.release("shop/1")
    capacity.acquire("shop/6")
    assert capacity.held == 7


def test_the_visitors_of_a_server_with_one_key_may_hold_everything() -> None:
    capacity = Capacity(4, "streams")
    for tenant in ("/1", "/2", "", "/1"):
        capacity.acquire(tenant)
    assert code(capacity, "/3") == "server_overloaded"
    for tenant in ("/1", "/2", "", "/1"):
        capacity.release(tenant)
    assert capacity.held == 0
