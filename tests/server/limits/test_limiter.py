"""Buckets and budgets, by a clock of the test's own."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.access.caller import Caller
from server.access.leash import Leash
from server.config import LimitSettings
from server.errors import RateLimitedError, translate
from server.limits.buckets import DAY, Buckets, Daily
from server.limits.limiter import Limiter

KEY = Caller(owner="shop", tenant="shop", key_id="0" * 12, address="192.0.2.1")


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def visitor(id: str = "s1", address: str = "198.51.100.1") -> Caller:
    return replace(KEY, owner=f"shop/{id}", address=address, leash=Leash(id, 0))


def limiter(clock: Clock, **limits: Any) -> Limiter:
    return Limiter(LimitSettings(**limits), clock=clock, wall=clock)


def test_a_bucket_fills_with_time_and_not_beyond_its_size() -> None:
    clock = Clock()
    buckets = Buckets(60, clock=clock)
    buckets.take("a", 60)
    assert buckets.wait("a") == pytest.approx(1)
    assert buckets.wait("b") == 0, "another has its own"
    clock.now += 30
    assert buckets.standing("a").remaining == 30
    clock.now += 1000
    assert (buckets.standing("a").remaining, buckets.standing("a").reset_seconds) == (60, 0)


def test_a_debt_is_paid_before_anything_is_taken() -> None:
    clock = Clock()
    buckets = Buckets(60, clock=clock)
    buckets.take("a", 90)
    assert buckets.standing("a").remaining == 0
    assert buckets.wait("a") == pytest.approx(31)
    clock.now += 31
    assert buckets.wait("a") == pytest.approx(0)


def test_what_is_larger_than_the_bucket_needs_a_full_one() -> None:
    clock = Clock()
    buckets = Buckets(60, clock=clock)
    assert buckets.wait("a", 500) == 0
    buckets.take("a", 1)
    assert buckets.wait("a", 500) == pytest.approx(1)


def test_a_million_addresses_hold_a_bounded_number_of_buckets() -> None:
    clock = Clock()
    buckets = Buckets(60, clock=clock, most=1000)
    for number in range(20_000):
        buckets.take(str(number), 1)
    assert len(buckets) == 1000


def test_buckets_that_are_full_again_are_forgotten() -> None:
    clock = Clock()
    buckets = Buckets(60, clock=clock)
    for number in range(100):
        buckets.take(str(number), 1)
    clock.now += 60
    for _ in range(100):
        buckets.take("last", 1)
    assert len(buckets) == 1


@given(st.lists(st.tuples(st.floats(0, 100, allow_subnormal=False), st.integers(0, 20)), max_size=60))
def test_no_pattern_of_requests_gets_more_than_the_size_and_the_rate(asked: list[tuple[float, int]]) -> None:
    clock = Clock()
    begin, taken = clock.now, 0
    buckets = Buckets(60, clock=clock)
    for pause, amount in asked:
        clock.now += pause
        if not buckets.wait("a", amount):
            buckets.take("a", amount)
            taken += amount
        assert taken <= 60 + (clock.now - begin) + 1e-6


def test_a_daily_budget_begins_anew_at_midnight() -> None:
    clock = Clock()
    daily = Daily(100, wall=clock)
    daily.charge("a", 150)
    assert daily.standing("a").remaining == 0
    assert daily.standing("a").reset_seconds == DAY - 1000
    clock.now = DAY
    assert daily.standing("a").remaining == 100


def test_the_eleventh_visitor_is_not_locked_out_by_ten_others() -> None:
    limits = limiter(Clock(), secret_requests=5)
    for number in range(10):
        caller = visitor(f"s{number}", f"198.51.100.{number}")
        for _ in range(5):
            limits.admit(caller)
        with pytest.raises(RateLimitedError, match="client secret"):
            limits.admit(caller)
    limits.admit(visitor("s11", "198.51.100.11"))
    limits.admit(KEY)


def test_many_secrets_from_one_address_share_its_bucket() -> None:
    limits = limiter(Clock(), secret_requests=10, address_requests=12)
    for number in range(12):
        limits.admit(visitor(f"s{number}"))
    with pytest.raises(RateLimitedError, match="address"):
        limits.admit(visitor("s13"))
    limits.admit(visitor("s13", "203.0.113.9"))


def test_the_addresses_of_one_ipv6_network_are_one_visitor() -> None:
    limits = limiter(Clock(), address_requests=2)
    limits.admit(visitor("s1", "2001:db8:0:1::1"))
    limits.admit(visitor("s2", "2001:db8:0:1:ffff::2"))
    with pytest.raises(RateLimitedError):
        limits.admit(visitor("s3", "2001:db8:0:1::3"))
    limits.admit(visitor("s3", "2001:db8:0:2::3"))


def test_a_sites_server_is_not_limited_by_its_address() -> None:
    limits = limiter(Clock(), address_requests=1, key_requests=100)
    for _ in range(100):
        limits.admit(KEY)
    with pytest.raises(RateLimitedError, match="key"):
        limits.admit(KEY)


def test_a_request_that_is_refused_is_not_counted() -> None:
    clock = Clock()
    limits = limiter(clock, secret_requests=1, address_requests=60)
    limits.admit(visitor())
    for _ in range(100):
        with pytest.raises(RateLimitedError):
            limits.admit(visitor())
    limits.admit(visitor("s2"))


def test_turns_at_the_same_time_do_not_share_the_last_tokens() -> None:
    limits = limiter(Clock(), secret_tokens=1000)
    limits.reserve(visitor(), 600)
    with pytest.raises(RateLimitedError, match="tokens a minute"):
        limits.reserve(visitor(), 600)
    limits.settle(visitor(), 600, 100)
    limits.reserve(visitor(), 600)


def test_a_turn_that_took_more_than_it_reserved_leaves_a_debt() -> None:
    clock = Clock()
    limits = limiter(clock, secret_tokens=600)
    limits.reserve(visitor(), 100)
    limits.settle(visitor(), 100, 1200)
    with pytest.raises(RateLimitedError) as error:
        limits.reserve(visitor(), 10)
    assert error.value.retry_after == 61


def test_a_sites_daily_budget_counts_its_visitors() -> None:
    limits = limiter(Clock(), key_daily_tokens=1000)
    limits.reserve(visitor("s1"), 0)
    limits.settle(visitor("s1"), 0, 1000)
    for caller in (KEY, visitor("s2")):
        with pytest.raises(RateLimitedError, match="a day"):
            limits.reserve(caller, 1)
    limits.reserve(replace(KEY, owner="other"), 1)


def test_a_refusal_is_a_429_that_says_when_to_come_again() -> None:
    clock = Clock()
    limits = limiter(clock, key_requests=6)
    for _ in range(6):
        limits.admit(KEY)
    clock.now += 2.5
    with pytest.raises(RateLimitedError) as error:
        limits.admit(KEY)
    answer = translate(error.value)
    assert (answer.status, answer.code, answer.headers()) == (429, "rate_limit_exceeded", {"Retry-After": "8"})
    assert answer.body()["error"]["type"] == "rate_limit_error"


def test_the_headers_say_what_is_left_of_the_narrowest_limit() -> None:
    clock = Clock()
    limits = limiter(clock, secret_requests=60, address_requests=30, secret_tokens=6000, address_tokens=60_000)
    limits.admit(visitor())
    limits.reserve(visitor(), 600)
    assert limits.headers(visitor()) == {
        "x-ratelimit-limit-requests": "30",
        "x-ratelimit-remaining-requests": "29",
        "x-ratelimit-reset-requests": "2s",
        "x-ratelimit-limit-tokens": "6000",
        "x-ratelimit-remaining-tokens": "5400",
        "x-ratelimit-reset-tokens": "6s",
    }
    assert [each.model_dump() for each in limits.rate_limits(visitor())] == [
        {"name": "requests", "limit": 30, "remaining": 29, "reset_seconds": 2.0},
        {"name": "tokens", "limit": 6000, "remaining": 5400, "reset_seconds": 6.0},
    ]


@pytest.mark.parametrize(
    ("used", "reset"), [(0, "0ms"), (1, "600ms"), (3, "1.8s"), (99, "59.4s"), (150, "1m30s"), (12_000, "2h0m0s")]
)
def test_a_reset_is_written_as_openai_does(used: int, reset: str) -> None:
    limits = limiter(Clock(), key_tokens=100, key_requests=0)
    limits.settle(KEY, 0, used)
    assert limits.headers(KEY)["x-ratelimit-reset-tokens"] == reset


def test_a_limit_of_0_is_none() -> None:
    limits = limiter(Clock(), key_requests=0, key_tokens=0)
    for _ in range(10_000):
        limits.admit(KEY)
    limits.reserve(KEY, 10**9)
    assert limits.headers(KEY) == {}
    assert limits.rate_limits(KEY) == []


def test_where_limits_are_off_nothing_is_counted() -> None:
    limits = Limiter(LimitSettings(address_requests=1), on=lambda: False)
    for _ in range(100):
        limits.admit(Caller(address="198.51.100.1"))
    assert limits.session_end(Caller(), 1000.0) is None


@pytest.mark.parametrize(
    ("own", "most", "end"), [(None, 3600, 4600), (60.0, 3600, 1060), (7200.0, 3600, 4600), (60.0, 0, 1060)]
)
def test_a_session_ends_at_the_sooner_of_its_secrets_end_and_the_servers(
    own: float | None, most: int, end: int
) -> None:
    caller = replace(KEY, leash=Leash("s", 0, seconds=own))
    assert limiter(Clock(), session_seconds=most).session_end(caller, 1000.0) == end
