"""Where a client's connections live: in a gevent hub of the program, or in a thread of the client's own.

Theory of operation. Connections belong to one gevent hub, and clients are called from anywhere. So a client keeps a
*home* for each place that it is called from:

* Where greenlets run (the program is monkey patched, or the caller is a greenlet that a hub runs), the home is the
  caller's own hub. A call runs in the caller and waits cooperatively.
* Everywhere else (a thread of a program that knows nothing of gevent, a native thread beside a hub) the home is one
  thread with a hub of its own, started at the first call. A call is posted there by ``run_callback_threadsafe``, runs
  in a greenlet, and the caller waits on a real lock, or cooperatively where its thread has a hub.

Both ways the code that talks to job servers is the same cooperative code; it never sees a thread. In a forked child no
home of the parent is used: right after the fork the child's copies of the sockets are put out of service, without a
word to the job servers, and new homes are made when they are needed.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, Final, Generic, Protocol, TypeVar

import gevent
from gevent import monkey
from gevent._hub_local import get_hub_if_exists
from gevent.event import Event

from gearworker.errors import InvalidClientState
from gearworker.net.address import Address, AddressLike

_start_thread = monkey.get_original("_thread", "start_new_thread")
_new_lock = monkey.get_original("_thread", "allocate_lock")

_ALIVE_CHECK_S: Final = 1.0
_CLOSE_S: Final = 1.0
_LAST_CALLS_S: Final = 0.1
_CLOSED: Final = "the client was closed while a call was under way"


def parse_hosts(host_list: Iterable[AddressLike] | AddressLike | None) -> list[Address]:
    """The addresses in a host list, each once, in order; one alone may stand without a list.

    Raises:
        ConfigError: a host can't be understood.
    """
    if host_list is None:
        return []
    is_one = isinstance(host_list, (str, Address, Mapping)) or (
        isinstance(host_list, tuple) and len(host_list) == 2 and isinstance(host_list[1], int)
    )
    hosts: Iterable[Any] = [host_list] if is_one else host_list  # type: ignore[assignment]
    return list(dict.fromkeys(Address.parse(host) for host in hosts))


class Guest(Protocol):
    """What lives in a home: the connections of a client."""

    def close(self) -> None:
        """Close everything; called in the home's hub. Never switches."""

    def abandon(self) -> None:
        """Called in a forked child: let go of the parent's sockets without a word to the peers."""


G = TypeVar("G", bound=Guest)
T = TypeVar("T")


class Home(Generic[G]):
    """A hub and the guest that lives in it.

    Args:
        hub: the gevent hub.
        guest: what lives there.
        is_own: the hub runs in a thread of the client's own.
    """

    def __init__(self, hub: Any, guest: G, *, is_own: bool = False) -> None:
        self.hub, self.guest, self.is_own = hub, guest, is_own
        self.calls: set[_Call] = set()
        self.leave = Event()
        self.has_ended = False
        self.ended = _new_lock()
        self.ended.acquire()

    def call(self, function: Callable[..., T], *args: Any) -> T:
        """Call a function that may switch, in this home, and wait for what it gives or raises.

        Switches: where the caller's thread has a hub; elsewhere it blocks the thread.
        """
        hub = get_hub_if_exists()
        if hub is self.hub:
            return function(*args)
        call = _Call(self, function, args)
        if hub is None:
            call.wait_in_thread()
        else:
            call.wait_in_hub(hub)
        if call.error is not None:
            try:
                raise call.error
            finally:
                del call  # the traceback would keep this frame, and the frame the error, in a cycle
        return call.result  # type: ignore[no-any-return]

    def post(self, function: Callable[[], Any]) -> None:
        """Have a function that never switches run in the hub, from any thread, without waiting for it."""
        loop = self.hub.loop
        if loop is not None:
            loop.run_callback_threadsafe(function)


class _Call:
    """One call on its way into another thread's hub and back."""

    def __init__(self, home: Home[Any], function: Callable[..., Any], args: tuple[Any, ...]) -> None:
        self.home, self.function, self.args = home, function, args
        self.result: Any = None
        self.error: BaseException | None = None
        self.greenlet: Any = None
        self.report: Callable[[], None] = lambda: None

    def spawn(self) -> None:
        if self.home.has_ended:  # its thread may be another home's by now
            self.error = InvalidClientState(_CLOSED)
            self.report()
            return
        self.home.calls.add(self)
        self.greenlet = gevent.spawn(self.run)

    def run(self) -> None:
        try:
            self.result = self.function(*self.args)
        except BaseException as error:  # it belongs to the caller, who raises it
            self.error = error
        finally:
            self.home.calls.discard(self)
            self.report()

    def cancel(self) -> None:
        self.home.calls.discard(self)  # a greenlet that never ran does not do it itself
        if self.greenlet is not None:
            self.greenlet.kill(block=False)

    def wait_in_thread(self) -> None:
        done = _new_lock()
        done.acquire()
        self.report = done.release
        self._wait(lambda: done.acquire(True, _ALIVE_CHECK_S))

    def wait_in_hub(self, hub: Any) -> None:
        done = Event()
        self.report = partial(hub.loop.run_callback_threadsafe, done.set)
        self._wait(lambda: done.wait(_ALIVE_CHECK_S))

    def _wait(self, wait_a_while: Callable[[], bool]) -> None:
        self.home.post(self.spawn)
        try:
            while not wait_a_while():
                if self.home.has_ended:
                    raise InvalidClientState(_CLOSED)
        except BaseException:
            self.home.post(self.cancel)
            raise


class Homes(Generic[G]):
    """The homes of one client, made as they are needed.

    Args:
        make_guest: makes what lives in a new home; called in the home's thread.
    """

    def __init__(self, make_guest: Callable[[], G]) -> None:
        self._make_guest = make_guest
        self._inherited: list[Home[G]] = []
        self._start_afresh()
        leave_parent_at_fork(self)

    def _start_afresh(self) -> None:
        self._pid = os.getpid()
        self._lock = _new_lock()
        self._by_hub: dict[Any, Home[G]] = {}
        self._own: Home[G] | None = None

    def here(self) -> Home[G]:
        """The home for a call from the current greenlet and thread."""
        if self._pid != os.getpid():
            self.leave_parent()
        hub = _running_hub()
        if hub is None:
            return self._own or self._make_own()
        home = self._by_hub.get(hub)
        if home is None:
            self._drop_dead_hubs()
            home = self._by_hub[hub] = Home(hub, self._make_guest())
        return home

    def leave_parent(self) -> None:
        """In a forked child: use nothing of the parent's. Idempotent."""
        # Kept for good: freeing a parent's hub or socket in the child would touch what both share.
        homes = self.all()
        self._inherited += homes
        self._start_afresh()
        for home in homes:
            home.guest.abandon()

    def all(self) -> list[Home[G]]:
        """The homes that there are."""
        return [*self._by_hub.values(), *([self._own] if self._own else [])]

    def _drop_dead_hubs(self) -> None:
        # Other threads may add and drop homes meanwhile.
        for hub in [hub for hub in list(self._by_hub) if hub.loop is None or not hub.loop.ptr]:
            self._by_hub.pop(hub, None)

    def _make_own(self) -> Home[G]:
        with self._lock:
            if self._own is None:
                try:
                    thread = _left_threads.pop()
                except IndexError:
                    thread = _OwnThread()
                self._own = thread.make_home(self._make_guest)
            return self._own

    def close(self, *, wait: bool = True) -> None:
        """Close every guest and leave the own thread. Usable again afterwards: new homes are made.

        Args:
            wait: until the own thread has closed its guest, for a moment.
        """
        if self._pid != os.getpid():
            self.leave_parent()
        own, others = self._own, list(self._by_hub.values())
        self._start_afresh()
        here = get_hub_if_exists()
        for home in others:
            if home.hub is here:
                home.guest.close()
            else:
                home.post(home.guest.close)
        if own is not None:
            own.post(own.leave.set)
            if wait and own.hub is not here:
                own.ended.acquire(True, _CLOSE_S)

    def close_with(self, owner: object) -> None:
        """Close when the owner is garbage; an interpreter that ends lets the system close everything."""
        weakref.finalize(owner, self.close, wait=False).atexit = False


class _OwnThread:
    """A native thread with a hub, in which one home after another lives.

    It never ends and its loop is never destroyed: what still holds a watcher of a destroyed loop writes into freed
    memory, and an interpreter that ends while a thread takes its greenlets apart crashes. So a thread that is left
    waits for the next home.
    """

    def __init__(self) -> None:
        self.home: Home[Any] | None = None
        self._make_guest: Callable[[], Any] = object
        self._asked = Event()
        self._made = _new_lock()
        self._made.acquire()
        self._hub: Any = None

    def make_home(self, make_guest: Callable[[], G]) -> Home[G]:
        """Make a home in this thread. Called in another thread, which is blocked for that moment."""
        self._make_guest = make_guest
        if self._hub is None:
            _start_thread(self._live, ())
        else:
            self._hub.loop.run_callback_threadsafe(self._asked.set)
        self._made.acquire()
        assert self.home is not None
        return self.home

    def _live(self) -> None:
        self._hub = hub = gevent.get_hub()
        hub.name = "gearworker client"
        keeps_loop_alive = hub.loop.async_()
        keeps_loop_alive.start(lambda: None)
        while True:
            home = self.home = Home(hub, self._make_guest(), is_own=True)
            self._made.release()
            home.leave.wait()
            home.guest.close()
            _end_calls(home)
            home.has_ended = True
            self.home, self._make_guest = None, object
            _left_threads.append(self)
            home.ended.release()
            del home
            self._asked.wait()
            self._asked.clear()


_left_threads: list[_OwnThread] = []
"""Threads whose homes have ended; a thread outlives its client, so they belong to the process."""


def _end_calls(home: Home[Any]) -> None:
    """Let calls that wait for a connection see that it is closed, and end the others."""
    with gevent.Timeout(_LAST_CALLS_S, False):  # type: ignore[arg-type]  # False: end quietly; the stubs don't know
        while home.calls:
            gevent.sleep(0.001)
    for call in list(home.calls):
        call.greenlet.kill(InvalidClientState(_CLOSED), timeout=_LAST_CALLS_S)


class Inheritor(Protocol):
    """What a forked child must not go on with."""

    def leave_parent(self) -> None:
        """Called in the child: let go of the parent's connections without a word to the peers."""


_living: weakref.WeakSet[Inheritor] = weakref.WeakSet()
"""Everything with connections in the process: the one hook that a process can have for forks must find it."""


def leave_parent_at_fork(inheritor: Inheritor) -> None:
    """Have ``leave_parent`` called in every child that is forked as long as the inheritor lives."""
    if not _hooks:
        os.register_at_fork(after_in_child=_leave_parent)
        _hooks.append(_leave_parent)
    _living.add(inheritor)


_hooks: list[Callable[[], None]] = []


def _leave_parent() -> None:
    """In a forked child, before its hub runs: a reader greenlet that came along would take the parent's packets."""
    _left_threads.clear()
    for inheritor in list(_living):
        inheritor.leave_parent()


def _running_hub() -> Any:
    """The hub in which calls of this greenlet shall run, or None for the own thread."""
    hub = get_hub_if_exists()
    if hub is not None and getattr(gevent.getcurrent(), "parent", None) is hub:
        return hub
    if monkey.is_module_patched("socket") and threading.get_native_id() == threading.main_thread().native_id:
        return hub or gevent.get_hub()
    return None
