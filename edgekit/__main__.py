"""The `edgekit` command, and `python -m edgekit`."""

import os
import signal
from typing import Any


def main() -> None:
    """Run the command line; Ctrl-C ends it with one line from the first moment on, while it is still being imported, too."""
    signal.signal(signal.SIGINT, _interrupted)
    from edgekit.cli.main import main as run

    signal.signal(signal.SIGINT, signal.default_int_handler)
    run()


def _interrupted(*_: Any) -> None:
    os.write(2, b"edgekit: error: interrupted before anything was done\n")
    os._exit(130)


if __name__ == "__main__":
    main()
