"""Who is in the cluster, and how many engines there are to be."""

from dataclasses import replace
from types import SimpleNamespace

from server.cluster.members import FORGET_SECONDS, Directory, Member
from server.cluster.scaling import ONGOING, engines_wanted

ONE = Member("1", "gateway", "http://a:1", "s")
TWO = Member("2", "engine", "http://b:2", "t")


def test_a_member_is_there_until_it_leaves_or_is_silent_for_long() -> None:
    now = 0.0
    directory = Directory(clock=lambda: now)
    assert directory.register(ONE).of("gateway") == (ONE,)
    view = directory.register(TWO)
    assert (view.of("gateway"), view.of("engine")) == ((ONE,), (TWO,))
    now = FORGET_SECONDS - 1
    leaving = replace(TWO, leaving=True)
    assert directory.register(leaving).of("engine") == (leaving,), "it says that it leaves, and is still there"
    now = FORGET_SECONDS
    assert directory.register(leaving).of("gateway") == ()
    directory.leave("2")
    directory.leave("2")
    assert directory.register(ONE).of("engine") == ()


def test_a_directory_that_begins_anew_is_complete_once_all_have_registered() -> None:
    directory = Directory()
    assert directory.register(TWO).of("gateway") == ()
    assert directory.register(ONE).of("engine") == (TWO,)


def test_a_members_secret_is_not_shown() -> None:
    assert "secret" not in repr(ONE) + repr(ONE.target)


def test_there_are_as_many_engines_as_the_replies_need() -> None:
    config = SimpleNamespace(target_ongoing_requests=10.0)
    metrics = {ONGOING: {"a": 12.0, "b": 13.0}}
    context = SimpleNamespace(aggregated_metrics=metrics, target_num_replicas=2, config=config)
    assert engines_wanted(context) == (2.5, {})
    context.aggregated_metrics = None
    assert engines_wanted(context) == (2.0, {}), "nothing is known yet"
