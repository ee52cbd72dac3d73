"""What the first bytes of a file tell of it."""

from collections.abc import Mapping
from pathlib import Path

from edgekit.errors import ModelFormatError

# What is no model of any kind, though it lies under a model's name.
NO_MODEL: Mapping[bytes, str] = {
    b"version https://git-lfs": "is a Git LFS pointer, not the model; fetch it with `git lfs pull`",
    b"<!DOCTYPE": "is a web page, not a model; download the file itself",
    b"<html": "is a web page, not a model; download the file itself",
    b"\x1f\x8b": "is a gzip archive; unpack it first",
}


def refuse_no_model(path: Path, remedy: str) -> None:
    """Raise `ModelFormatError` for a file that cannot be read, is empty or begins as something that is no model."""
    try:
        with path.open("rb") as stream:
            head = stream.read(64)
    except OSError as error:
        raise ModelFormatError(f"{path}: cannot be read ({error.strerror}); check its permissions") from None
    if not head:
        raise ModelFormatError(f"{path}: is empty; {remedy}")
    for start, remark in NO_MODEL.items():
        if head.startswith(start):
            raise ModelFormatError(f"{path}: {remark}")
