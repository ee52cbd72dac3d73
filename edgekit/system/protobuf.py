"""Messages in protobuf's wire format, read field by field from a file: what is not asked for is skipped, not loaded.

The format: https://protobuf.dev/programming-guides/encoding/. Every length is checked, and fields are counted, since those of a
hostile file may be without end."""

import os
from collections.abc import Iterator
from pathlib import Path

from edgekit.errors import ModelFormatError
from edgekit.system.headers import refuse_no_model

# Where the bytes of a field lie: from, to.
Span = tuple[int, int]

# Some seconds; large models have a twentieth of it, since a tensor's data is one field.
_MOST_FIELDS = 3_000_000
_LONGEST_TEXT = 2**16
_MOST_AXES = 64
_BLOCK = 2**16
_LONGEST_VARINT = 10
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_SIGN, _WRAP = 1 << 63, 1 << 64


class Message:
    """The message that a file is; it is read until the block ends.

    Methods take the `Span` of a message inside it, and raise `ModelFormatError`, which calls the file a `kind` and says what to do,
    its `remedy`."""

    def __init__(self, path: Path, kind: str, remedy: str) -> None:
        self.path, self._kind, self._remedy = path, kind, remedy
        self._left = _MOST_FIELDS
        self._block, self._start, self._limit = b"", 0, 0
        refuse_no_model(path, remedy)
        self._file = path.open("rb", buffering=0)
        self.size = os.fstat(self._file.fileno()).st_size

    def __enter__(self) -> "Message":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    @property
    def whole(self) -> Span:
        return 0, self.size

    def damaged(self, what: str) -> ModelFormatError:
        return ModelFormatError(f"{self.path}: not a whole {self._kind} ({what}); {self._remedy}")

    def fields(self, span: Span) -> Iterator[tuple[int, int | Span]]:
        """Number and value of each field: an int, unsigned as it is written, or where its bytes lie."""
        at, end = span
        while at < end:
            self._left -= 1
            if self._left < 0:
                raise self.damaged(f"more than {_MOST_FIELDS:,} fields")
            tag, at = self._varint(at, end)
            kind = tag & 7
            if kind == _BYTES:
                length, at = self._varint(at, end)
                if length > end - at:
                    raise self.damaged(f"at byte {at} {length:,} bytes should follow, of which {end - at:,} are there")
                yield tag >> 3, (at, at + length)
                at += length
            elif kind == _VARINT:
                value, at = self._varint(at, end)
                yield tag >> 3, value
            elif kind in (_FIXED32, _FIXED64):
                length = 4 if kind == _FIXED32 else 8
                if length > end - at:
                    raise self.damaged(f"cut off at byte {end}")
                yield tag >> 3, int.from_bytes(self._read((at, at + length)), "little")
                at += length
            else:
                raise self.damaged(f"no field begins at byte {at - 1}")

    def spans(self, span: Span, number: int) -> Iterator[Span]:
        """Where the bytes of each field of this number lie."""
        return (value for field, value in self.fields(span) if field == number and isinstance(value, tuple))

    def text(self, value: int | Span) -> str:
        """What a field of bytes says; a number says nothing."""
        if isinstance(value, int):
            return ""
        if value[1] - value[0] > _LONGEST_TEXT:
            raise self.damaged(f"a name of {value[1] - value[0]:,} bytes at byte {value[0]}")
        return self._read(value).decode(errors="replace")

    def texts(self, span: Span) -> dict[int, str]:
        """The last text of each field of bytes by its number, for messages of nothing but texts."""
        return {number: self.text(value) for number, value in self.fields(span)}

    def integers(self, value: int | Span) -> list[int]:
        """The signed number of a field, or those that are packed in it: the sizes of axes."""
        if isinstance(value, int):
            return [signed(value)]
        numbers, (at, end) = [], value
        while at < end:
            number, at = self._varint(at, end)
            numbers.append(signed(number))
            if len(numbers) > _MOST_AXES:
                raise self.damaged(f"more than {_MOST_AXES} axes at byte {value[0]}")
        return numbers

    def _read(self, span: Span) -> bytes:
        start, end = span
        if self._start <= start and end <= self._start + len(self._block):
            return self._block[start - self._start : end - self._start]
        content = os.pread(self._file.fileno(), end - start, start)
        if len(content) < end - start:
            raise self.damaged("it became shorter while it was read")
        return content

    def _varint(self, at: int, end: int) -> tuple[int, int]:
        """The number at a place, and the place behind it."""
        if at >= end:
            raise self.damaged(f"cut off at byte {at}")
        if not self._start <= at < self._limit:
            self._load(at)
        block, place = self._block, at - self._start
        byte = block[place]
        if byte < 128:
            return byte, at + 1
        value, shift = 0, 0
        for byte in block[place : place + min(end - at, _LONGEST_VARINT)]:
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value % _WRAP, at + shift // 7
        raise self.damaged(f"cut off at byte {end}, or damaged at byte {at}")

    def _load(self, at: int) -> None:
        """Have a block in memory that holds the whole field's head at a place."""
        self._block, self._start = os.pread(self._file.fileno(), _BLOCK, at), at
        if not self._block:
            raise self.damaged("it became shorter while it was read")
        whole = at + len(self._block)
        self._limit = whole if whole >= self.size else whole - _LONGEST_VARINT


def signed(value: int) -> int:
    """An int64 as it is meant."""
    return value - _WRAP if value & _SIGN else value
