"""Locks of the patched standard library, contended by native threads and greenlets; in processes of their own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

PRELUDE = """
from gearworker.patching import patch_standard_library
patch_standard_library()
patch_standard_library()  # a second time changes nothing
import os, sys, threading, time
import gevent
from gevent.threadpool import ThreadPool

pool = ThreadPool(4)

def finish(results, timeout_s=25):
    with gevent.Timeout(timeout_s):
        for result in results:
            result.get()
    print("done", flush=True)
    os._exit(0)
"""

IMPORTS = """
sys.path.insert(0, sys.argv[1])
sys.dont_write_bytecode = True
results = []
def use(number):
    __import__(f"first{number}")
for number in range(150):
    with gevent.Timeout(10):
        for result in [pool.spawn(use, number) for _ in range(4)]:
            result.get()
finish([])
"""

LOGGING = """
import logging
logging.basicConfig(stream=open(os.devnull, "w"))
log, lock, turns = logging.getLogger("x"), threading.Lock(), []
def work(pauses):
    for turn in range(500):
        log.warning("turn %d", turn)
        with lock:
            turns.append(turn)
        if pauses and turn % 50 == 0:
            time.sleep(0.0001)
results = [pool.spawn(work, number % 2) for number in range(4)] + [gevent.spawn(work, number) for number in range(2)]
finish(results)
"""

LIMITS = """
lock = threading.Lock()
lock.acquire()
def wait():
    began = time.monotonic()
    assert lock.acquire(timeout=0.05) is False
    assert time.monotonic() - began >= 0.05
    assert lock.acquire(blocking=False) is False
    assert lock.acquire(timeout=0) is False
    for wrong in ((False, 1), (True, -2)):
        try:
            lock.acquire(*wrong)
        except ValueError:
            continue
        raise AssertionError(wrong)
def held_by_a_greenlet_of_the_same_thread():
    own = threading.Lock()
    def hold():
        with own:
            gevent.sleep(0.02)
    holder = gevent.spawn(hold)
    gevent.sleep(0)
    with own:
        assert holder.dead or holder.ready() or not own.acquire(blocking=False)
finish([pool.spawn(wait), pool.spawn(held_by_a_greenlet_of_the_same_thread)])
"""


def run(program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", PRELUDE + program, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def test_native_threads_that_import_the_same_modules_at_once_all_get_them(tmp_path: Path) -> None:
    body = "\n".join(f"def f{number}(a, b): return a + {number} * b" for number in range(100))
    for number in range(150):
        (tmp_path / f"first{number}.py").write_text(f"import second{number}\n{body}")
        (tmp_path / f"second{number}.py").write_text(body)
    ended = run(IMPORTS, str(tmp_path))
    assert (ended.stdout, ended.returncode) == ("done\n", 0), ended.stderr


def test_native_threads_and_greenlets_share_locks_without_a_lost_wake_up() -> None:
    ended = run(LOGGING)
    assert ended.stdout.splitlines()[-1:] == ["done"], ended.stderr
    assert ended.returncode == 0


def test_limits_and_wrong_arguments_are_as_in_the_standard_library() -> None:
    ended = run(LIMITS)
    assert (ended.stdout, ended.returncode) == ("done\n", 0), ended.stderr
