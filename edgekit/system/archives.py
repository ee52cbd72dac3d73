"""Zip archives that may come from strangers: what they may unpack to, and how damaged ones fail."""

import struct
import zipfile
import zlib
from pathlib import Path

# What is unpacked: so much, or so many times the file, which zeros exceed and data does not.
_BYTES, TIMES = 2**28, 50
# What reading one raises shares no base class.
DAMAGED = (zipfile.BadZipFile, zlib.error, struct.error, EOFError, OSError, RuntimeError, ValueError, OverflowError)


def room(file: Path) -> int:
    """Bytes that the arrays in an archive may unpack to."""
    return max(_BYTES, TIMES * file.stat().st_size)
