"""What the first bytes of a file tell of it."""

from collections.abc import Mapping

# What is no model of any kind, though it lies under a model's name.
NO_MODEL: Mapping[bytes, str] = {
    b"version https://git-lfs": "is a Git LFS pointer, not the model; fetch it with `git lfs pull`",
    b"<!DOCTYPE": "is a web page, not a model; download the file itself",
    b"<html": "is a web page, not a model; download the file itself",
    b"\x1f\x8b": "is a gzip archive; unpack it first",
}
