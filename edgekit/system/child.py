"""What a child process owes its parent, and how its end is called."""

import ctypes
import os
import signal
import sys


def die_with_parent(parent: int) -> None:
    """Have the system kill this process when `parent` ends."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # 1 is PR_SET_PDEATHSIG, prctl(2)
        if os.getppid() != parent:
            os._exit(1)


def signal_name(number: int) -> str:
    """Of the signal that ended a child; the real-time ones between SIGRTMIN and SIGRTMAX have no name."""
    return signal.Signals(number).name if number in set(signal.Signals) else f"signal {number}"
