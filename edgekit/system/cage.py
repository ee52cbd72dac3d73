"""What a child that loads other people's files can still do: read, compute, and write where it was told to.

Landlock (Linux 5.13) and seccomp through ctypes, since no wheel of either comes without a compiler. Where the system lacks
them nothing is confined: they stand behind the checks of what is loaded, not in their place."""

import contextlib
import ctypes
import errno
import os
import platform
import resource
import struct
import sys
from collections.abc import Iterable
from pathlib import Path

# landlock(7); the numbers are the same on every architecture.
_CREATE, _ADD, _RESTRICT = 444, 445, 446
_ABI, _BENEATH = 1, 1  # LANDLOCK_CREATE_RULESET_VERSION, LANDLOCK_RULE_PATH_BENEATH
_WRITE_FILE, _TRUNCATE = 1 << 1, 1 << 14
# To remove and to make: REMOVE_DIR up to MAKE_SYM, and from version 2 on REFER, a rename between folders.
_CHANGE_FOLDERS, _REFER = sum(1 << bit for bit in range(4, 13)), 1 << 13
_BIND, _CONNECT = 0b01, 0b10  # TCP
_SCOPES = 0b11  # abstract sockets and signals of processes outside
# Whom a library may write to all the same.
_DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/tty", "/dev/shm")
# prctl(2) and seccomp(2).
_NO_NEW_PRIVILEGES, _SECCOMP, _FILTER = 38, 22, 2
_ALLOW, _REFUSE = 0x7FFF0000, 0x00050000
_LOAD, _EQUAL, _AT_LEAST, _RETURN = 0x20, 0x15, 0x35, 0x06
# By machine: the audit number of the architecture, and the number of socket(2); io_uring_setup(2) is 425 on all.
_SYSCALLS = {"x86_64": (0xC000003E, 41), "aarch64": (0xC00000B7, 198)}
_IO_URING, _X32 = 425, 0x40000000
_NUMBER, _ARCHITECTURE = 0, 4  # offsets in struct seccomp_data


def confine(writable: Iterable[Path], most_bytes: int, *, listens: bool = False) -> tuple[str, ...]:
    """Let this process, and all it starts, write below `writable` alone, and no file of more than `most_bytes`.

    It opens no connection either, but may take some if it `listens`. Gives the names of what the system enforces. Call it before
    anything starts a thread; it cannot be taken back."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    most = most_bytes if hard == resource.RLIM_INFINITY else min(most_bytes, hard)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
    if sys.platform != "linux":
        return ()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0):
        return ()
    landlock = _restrict(libc, writable, listens)
    seccomp = not listens and _refuse_sockets(libc)
    return tuple(name for name, held in (("landlock", landlock), ("seccomp", seccomp)) if held)


def _restrict(libc: ctypes.CDLL, writable: Iterable[Path], listens: bool) -> bool:
    version = libc.syscall(_CREATE, None, 0, _ABI)
    if version < 1:
        return False
    of_files = _WRITE_FILE | (_TRUNCATE if version >= 3 else 0)
    handled = of_files | _CHANGE_FOLDERS | (_REFER if version >= 2 else 0)
    fields = [handled, *([_CONNECT if listens else _BIND | _CONNECT] if version >= 4 else []), *([_SCOPES] if version >= 6 else [])]
    attributes = struct.pack(f"={len(fields)}Q", *fields)
    ruleset = libc.syscall(_CREATE, attributes, len(attributes), 0)
    if ruleset < 0:
        return False
    try:
        for place in (*map(Path, _DEVICES), *writable):
            with contextlib.suppress(OSError):
                descriptor = os.open(place, os.O_PATH | os.O_CLOEXEC)
                allowed = handled if place.is_dir() else of_files
                libc.syscall(_ADD, ruleset, _BENEATH, struct.pack("=Qi", allowed, descriptor), 0)
                os.close(descriptor)
        return bool(libc.syscall(_RESTRICT, ruleset, 0) == 0)
    finally:
        os.close(ruleset)


def _refuse_sockets(libc: ctypes.CDLL) -> bool:
    """Let socket(2) fail, and io_uring_setup(2), which can open sockets too."""
    if (known := _SYSCALLS.get(platform.machine())) is None:
        return False
    architecture, socket_number = known
    refused = (_RETURN, 0, 0, _REFUSE | errno.EACCES)
    program = (
        (_LOAD, 0, 0, _ARCHITECTURE),
        # Another architecture's numbers, as of 32-bit programs, mean other calls, and so do those from x32 on.
        (_EQUAL, 1, 0, architecture),
        refused,
        (_LOAD, 0, 0, _NUMBER),
        (_AT_LEAST, 2, 0, _X32),
        (_EQUAL, 1, 0, _IO_URING),
        (_EQUAL, 0, 1, socket_number),
        refused,
        (_RETURN, 0, 0, _ALLOW),
    )
    code = b"".join(struct.pack("=HBBI", *line) for line in program)
    held = ctypes.create_string_buffer(code, len(code))
    # A filter is its length and a pointer.
    filter_ = struct.pack("@HP", len(program), ctypes.addressof(held))
    return bool(libc.prctl(_SECCOMP, _FILTER, filter_, 0, 0) == 0)
