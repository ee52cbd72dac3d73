"""Arrays of .npz files, read as data: nothing is unpickled, and no more than the asked rows are taken into memory."""

import math
import zipfile
import zlib
from pathlib import Path
from typing import IO

import numpy as np

from edgekit.data.samples import Array
from edgekit.errors import DatasetError, one_line
from edgekit.system import archives


def read_npz(path: Path, limit: int | None) -> dict[str, Array]:
    """The first `limit` rows of every array, by name (format: numpy.lib.format, a zip of .npy members).

    Raises `DatasetError` if the file is empty, truncated, not an .npz, or holds Python objects."""
    try:
        with zipfile.ZipFile(path) as archive:
            arrays: dict[str, Array] = {}
            room = archives.room(path)
            for name in (member.removesuffix(".npy") for member in archive.namelist() if member.endswith(".npy")):
                with archive.open(f"{name}.npy") as stream:
                    arrays[name] = _read_member(stream, limit, f"{path}: array {name}", room)
                room -= arrays[name].nbytes
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        cause = "is empty" if path.stat().st_size == 0 else f"not a whole .npz file ({error})"
        raise DatasetError(f"{path}: {cause}; write it again with numpy.savez") from None
    except OSError as error:
        raise DatasetError(f"{path}: cannot be read ({error.strerror or error}); check the path and its permissions") from None
    if not arrays:
        raise DatasetError(f"{path}: holds no arrays; write one per model input with numpy.savez")
    return arrays


def _read_member(stream: IO[bytes], limit: int | None, name: str, room: int) -> Array:
    try:
        version = np.lib.format.read_magic(stream)
        read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, column_major, dtype = read_header(stream)
    except Exception as error:  # a header is a Python literal, and fails as those do
        raise DatasetError(f"{name}: not a whole .npy member ({one_line(error)}); write it again with numpy.savez") from None
    if dtype.hasobject:
        raise DatasetError(f"{name}: holds Python objects, which are not loaded; save numbers with a fixed shape")
    if not shape:
        raise DatasetError(f"{name}: is a single number; give one row per sample")
    if not all(isinstance(size, int) and size >= 0 for size in shape):
        raise DatasetError(f"{name}: not a whole .npy member (shape {shape}); write it again with numpy.savez")
    # A column-major array has no rows lying together: it is read whole.
    rows = shape[0] if limit is None or column_major else min(limit, shape[0])
    count = rows * math.prod(shape[1:])
    if count * dtype.itemsize > room:
        raise DatasetError(
            f"{name}: unpacks to {count * dtype.itemsize / 1e9:.1f} GB, {archives.TIMES} times the file and more; "
            "write it with numpy.savez"
        )
    data = stream.read(count * dtype.itemsize)
    if len(data) != count * dtype.itemsize:
        raise DatasetError(f"{name}: truncated, {len(data)} of {count * dtype.itemsize} bytes; write it again with numpy.savez")
    return np.frombuffer(data, dtype, count).reshape((rows, *shape[1:]), order="F" if column_major else "C")[:limit]
