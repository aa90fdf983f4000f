"""Patching the standard library for greenlets, with locks that handlers in native threads can count on.

gevent's patched locks lose wake-ups between native threads: the one that released puts the waiter's notification back
and hopes that the waiter's thread looks by itself. A handler with ``thread=True`` that imports a module, or logs, while
another does would wait for ever. So nobody waits in such a lock's queue without a limit here: a native thread asks
again after a short pause, and a greenlet of the main thread, which is woken nearly always, looks again now and then.
"""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic
from typing import Any, Final

_THREAD_PAUSES_S: Final = (0.00005, 0.005)
"""The first and the longest pause between a native thread's questions."""

_GREENLET_WAITS_S: Final = (0.05, 1.0)
"""The first and the longest wait of a greenlet in a lock's queue before it looks again."""


def patch_standard_library() -> None:
    """Make blocking calls of the standard library yield; call it in the main thread, before any user's module."""
    from gevent import monkey

    monkey.patch_all()

    from gevent import thread  # type: ignore[attr-defined]

    lock_type: Any = thread.LockType
    if not hasattr(lock_type, "acquire_once"):
        lock_type.acquire_once = lock_type.acquire
        lock_type.acquire = lock_type.__enter__ = _patient(lock_type.acquire)


def _patient(acquire_once: Callable[..., bool]) -> Callable[..., bool]:
    """A lock's acquire() that no lost wake-up holds for ever. Made in the main thread.

    Args:
        acquire_once: gevent's acquire().
    """
    import gevent
    from gevent._hub_local import get_hub_if_exists
    from gevent.monkey import get_original

    thread_id: Callable[[], int] = get_original("_thread", "get_ident")
    native_sleep: Callable[[float], None] = get_original("time", "sleep")
    main_thread = thread_id()

    def acquire(lock: Any, blocking: bool = True, timeout: float = -1) -> bool:
        if acquire_once(lock, False):
            return True
        if not blocking or timeout not in (-1, None):
            return acquire_limited(lock, blocking, timeout)
        if thread_id() != main_thread:
            return poll(lock, None)
        wait_s, longest_s = _GREENLET_WAITS_S
        while not acquire_once(lock, True, wait_s):
            wait_s = min(2 * wait_s, longest_s)
        return True

    def acquire_limited(lock: Any, blocking: bool, timeout: float) -> bool:
        if not blocking or timeout <= 0 or thread_id() == main_thread:
            return acquire_once(lock, blocking, timeout)
        return poll(lock, monotonic() + timeout)

    def poll(lock: Any, deadline: float | None) -> bool:
        pause_s, longest_s = _THREAD_PAUSES_S
        while not acquire_once(lock, False):
            if deadline is not None and monotonic() >= deadline:
                return False
            # Where the thread has greenlets of its own, one of them may hold the lock.
            (native_sleep if get_hub_if_exists() is None else gevent.sleep)(pause_s)
            pause_s = min(2 * pause_s, longest_s)
        return True

    return acquire
