"""Runs a command under the system call filters that systemd would build from a unit's settings, with libseccomp.

    python seccomp_exec.py RULES COMMAND [ARGUMENT...]

RULES is JSON: ``allow`` (names of system calls; others fail with EPERM), ``families`` (address families that sockets
may have) and ``deny_write_execute``. This is what SystemCallFilter=, RestrictAddressFamilies= and
MemoryDenyWriteExecute= do, so a program can be tried under them where systemd does not run.
"""

from __future__ import annotations

import ctypes
import errno
import json
import mmap
import os
import socket
import sys

_ALLOW = 0x7FFF0000
_ERRNO = 0x00050000
_EQ, _GT, _MASKED_EQ = 4, 6, 7  # seccomp.h: enum scmp_compare
_LAST_FAMILY = 45  # AF_MCTP
_SHM_EXEC = 0o100000


class _Compare(ctypes.Structure):
    """struct scmp_arg_cmp."""

    _fields_ = (("arg", ctypes.c_uint), ("op", ctypes.c_int), ("a", ctypes.c_uint64), ("b", ctypes.c_uint64))


class Filter:
    """One filter: a default action and exceptions from it. The kernel takes the strictest of all loaded ones."""

    def __init__(self, default: int) -> None:
        self._lib = ctypes.CDLL("libseccomp.so.2")
        self._lib.seccomp_init.restype = ctypes.c_void_p
        self._context = ctypes.c_void_p(self._lib.seccomp_init(ctypes.c_uint32(default)))

    def add(self, action: int, name: str, *compares: _Compare) -> None:
        """Add a rule; a system call that this machine does not have is left out."""
        number = self._lib.seccomp_syscall_resolve_name(name.encode())
        if number < 0:
            return
        array = (_Compare * len(compares))(*compares)
        result = self._lib.seccomp_rule_add_array(
            self._context, ctypes.c_uint32(action), number, ctypes.c_uint(len(compares)), array
        )
        if result != 0:
            raise OSError(-result, f"no filter for {name}: {os.strerror(-result)}")

    def load(self) -> None:
        """Put it in force, for this process and all that it starts; privileges can't be gained from here on."""
        result = self._lib.seccomp_load(self._context)
        if result != 0:
            raise OSError(-result, f"seccomp: {os.strerror(-result)}")


def deny_write_execute() -> Filter:
    """MemoryDenyWriteExecute=: no mapping for both, none made executable later."""
    made, no = Filter(_ALLOW), _ERRNO | errno.EPERM
    both = mmap.PROT_WRITE | mmap.PROT_EXEC
    made.add(no, "mmap", _Compare(2, _MASKED_EQ, both, both))
    made.add(no, "mprotect", _Compare(2, _MASKED_EQ, mmap.PROT_EXEC, mmap.PROT_EXEC))
    made.add(no, "pkey_mprotect", _Compare(2, _MASKED_EQ, mmap.PROT_EXEC, mmap.PROT_EXEC))
    made.add(no, "shmat", _Compare(2, _MASKED_EQ, _SHM_EXEC, _SHM_EXEC))
    return made


def only_families(names: list[str]) -> Filter:
    """RestrictAddressFamilies=: sockets of these families only."""
    made, no = Filter(_ALLOW), _ERRNO | errno.EAFNOSUPPORT
    allowed = {int(getattr(socket, name)) for name in names}
    for family in range(_LAST_FAMILY + 1):
        if family not in allowed:
            made.add(no, "socket", _Compare(0, _EQ, family, 0))
    made.add(no, "socket", _Compare(0, _GT, _LAST_FAMILY, 0))
    return made


def only_calls(names: list[str]) -> Filter:
    """SystemCallFilter=: these system calls only."""
    made = Filter(_ERRNO | errno.EPERM)
    for name in names:
        made.add(_ALLOW, name)
    return made


def main() -> None:
    """Load the filters, the one that could forbid loading others last, and become the command."""
    rules, command = json.loads(sys.argv[1]), sys.argv[2:]
    filters = [only_families(rules["families"])]
    if rules["deny_write_execute"]:
        filters.append(deny_write_execute())
    filters.append(only_calls(rules["allow"]))
    for each in filters:
        each.load()
    os.execv(command[0], command)


if __name__ == "__main__":
    main()
