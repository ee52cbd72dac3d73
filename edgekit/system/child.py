"""What a child process owes its parent, and how its end is called."""

import contextlib
import ctypes
import os
import signal
import sys
from collections.abc import Iterator


def die_with_parent(parent: int) -> None:
    """Have the system kill this process when `parent` ends."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # 1 is PR_SET_PDEATHSIG, prctl(2)
        if os.getppid() != parent:
            os._exit(1)


@contextlib.contextmanager
def hushed() -> Iterator[None]:
    """Throw away what native code writes on stderr while the block runs: runtimes tell of themselves, Rust of its panics."""
    # Closed by whoever started this, it may be the number of another file by now.
    if sys.stderr is None:
        yield
        return
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def signal_name(number: int) -> str:
    """Of the signal that ended a child; the real-time ones between SIGRTMIN and SIGRTMAX have no name."""
    return signal.Signals(number).name if number in set(signal.Signals) else f"signal {number}"
