"""Where calls run: the caller's hub, or a thread of the client's own."""

from __future__ import annotations

import gc
import threading
import time
import weakref
from collections.abc import Iterator
from typing import Any

import gevent
import pytest

from gearworker.client.hub import Homes, parse_hosts
from gearworker.errors import ConfigError, InvalidClientState


class Guest:
    """Notes where it is called."""

    def __init__(self) -> None:
        self.made_in = threading.get_ident()
        self.closed_in: int | None = None
        self.abandoned = False

    def close(self) -> None:
        self.closed_in = threading.get_ident()

    def abandon(self) -> None:
        self.abandoned = True

    def where(self) -> int:
        gevent.sleep(0.001)
        return threading.get_ident()

    def fail(self) -> None:
        raise KeyError("guest")


@pytest.fixture
def homes() -> Iterator[Homes[Guest]]:
    homes = Homes(Guest)
    yield homes
    homes.close()


def in_thread(function: Any) -> Any:
    """Call a function in a fresh plain thread."""
    results: list[Any] = []
    thread = threading.Thread(target=lambda: results.append(function()))
    thread.start()
    thread.join(10)
    return results[0]


def test_plain_threads_share_one_home_in_a_thread_of_its_own(homes: Homes[Guest]) -> None:
    def call() -> tuple[Any, int]:
        home = homes.here()
        return home, home.call(home.guest.where)

    (first, first_ran), (second, second_ran) = in_thread(call), in_thread(call)
    assert first is second
    assert first.is_own
    assert first_ran == second_ran == first.guest.made_in != threading.get_ident()


def test_a_greenlet_has_its_hub_as_home(homes: Homes[Guest]) -> None:
    def call() -> tuple[Any, int]:
        home = homes.here()
        return home, home.call(home.guest.where)

    home, ran = gevent.spawn(call).get()
    assert (home.hub, home.is_own) == (gevent.get_hub(), False)
    assert ran == home.guest.made_in == threading.get_ident()
    assert gevent.spawn(homes.here).get() is home


def test_a_greenlet_waits_cooperatively_for_a_home_elsewhere(homes: Homes[Guest]) -> None:
    own = in_thread(homes.here)
    ticks: list[int] = []

    def tick() -> None:
        while True:
            ticks.append(1)
            gevent.sleep(0.001)

    ticking = gevent.spawn(tick)
    gevent.spawn(own.call, gevent.sleep, 0.1).get()
    ticking.kill()
    assert len(ticks) > 5


@pytest.mark.parametrize("caller", ["thread", "greenlet"])
def test_an_error_reaches_the_caller(homes: Homes[Guest], caller: str) -> None:
    own = in_thread(homes.here)

    def call() -> str:
        with pytest.raises(KeyError, match="guest"):
            own.call(own.guest.fail)
        return "raised"

    assert (in_thread(call) if caller == "thread" else gevent.spawn(call).get()) == "raised"


def test_a_call_that_is_given_up_ends_at_home(homes: Homes[Guest]) -> None:
    own = in_thread(homes.here)
    ended = threading.Event()

    def work() -> None:
        try:
            gevent.sleep(60)
        finally:
            ended.set()

    with gevent.Timeout(0.05, False):  # type: ignore[arg-type]
        own.call(work)
    assert ended.wait(5)


def test_closing_leaves_the_own_thread_and_closes_the_guest_there(homes: Homes[Guest]) -> None:
    own = in_thread(homes.here)
    homes.close()
    assert own.guest.closed_in == own.guest.made_in
    assert own.has_ended
    assert in_thread(homes.here) is not own


@pytest.mark.parametrize("caller", ["thread", "greenlet"])
def test_a_call_to_a_home_that_has_ended(homes: Homes[Guest], caller: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gearworker.client.hub._ALIVE_CHECK_S", 0.01)
    own = in_thread(homes.here)
    homes.close()

    def call() -> str:
        with pytest.raises(InvalidClientState, match="closed"):
            own.call(own.guest.where)
        return "raised"

    assert (in_thread(call) if caller == "thread" else gevent.spawn(call).get()) == "raised"


def test_a_call_under_way_when_its_home_is_closed(homes: Homes[Guest]) -> None:
    own = in_thread(homes.here)
    outcomes: list[Any] = []

    def call() -> None:
        try:
            own.call(gevent.sleep, 60)
        except InvalidClientState as error:
            outcomes.append(error)

    thread = threading.Thread(target=call)
    thread.start()
    while not own.calls:
        time.sleep(0.001)
    homes.close()
    thread.join(10)
    assert "closed" in str(outcomes[0])


def test_an_owner_that_is_garbage_closes_its_homes() -> None:
    class Owner:
        def __init__(self) -> None:
            self.homes: Homes[Guest] = Homes(Guest)
            self.homes.close_with(self)

    owner = Owner()
    own = in_thread(owner.homes.here)
    gone = weakref.ref(owner)
    del owner
    gc.collect()
    assert gone() is None
    assert own.ended.acquire(timeout=5)


def test_a_child_starts_afresh_and_keeps_what_it_inherited(homes: Homes[Guest]) -> None:
    home = gevent.spawn(homes.here).get()
    homes._pid = -1  # as after a fork
    fresh = gevent.spawn(homes.here).get()
    assert fresh is not home
    assert (home.guest.abandoned, home.guest.closed_in, fresh.guest.abandoned) == (True, None, False)
    assert homes._inherited == [home]


def test_hosts() -> None:
    assert parse_hosts(None) == []
    assert [str(address) for address in parse_hosts(["a", "b:1", "a:4730", ("c", 2), {"host": "d"}])] == [
        "a:4730", "b:1", "c:2", "d:4730",
    ]  # fmt: skip
    for one in ("a:1", ("a", 1), {"host": "a", "port": 1}, parse_hosts("a:1")[0]):
        assert [str(address) for address in parse_hosts(one)] == ["a:1"]
    assert [str(address) for address in parse_hosts(("a:1", "b:2"))] == ["a:1", "b:2"]
    with pytest.raises(ConfigError):
        parse_hosts(["a:b"])
