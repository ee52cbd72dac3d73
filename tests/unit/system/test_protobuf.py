import os
from pathlib import Path

import pytest

from edgekit.errors import ModelFormatError
from edgekit.system import protobuf
from edgekit.system.protobuf import Message


def message(path: Path, content: bytes) -> Message:
    path.write_bytes(content)
    return Message(path, "model", "export it again")


def test_numbers_texts_and_messages(tmp_path: Path) -> None:
    # 1: 300, 2: "abc", 3: {1: -1}, 4: fixed32 7, 5: fixed64 9, 16: 1
    inner = b"\x08" + b"\xff" * 9 + b"\x01"
    content = b"\x08\xac\x02" + b"\x12\x03abc" + b"\x1a\x0b" + inner + b"\x25\x07\0\0\0" + b"\x29\x09" + bytes(7) + b"\x80\x01\x01"
    with message(tmp_path / "m", content) as held:
        fields = dict(held.fields(held.whole))
        assert [fields[number] for number in (1, 4, 5, 16)] == [300, 7, 9, 1]
        assert held.text(fields[2]) == "abc"
        (inside,) = held.spans(held.whole, 3)
        assert [held.integers(value) for _, value in held.fields(inside)] == [[-1]]


@pytest.mark.parametrize(
    "content",
    [
        b"\x08",  # no number
        b"\x12\x05abc",  # fewer bytes than it says
        b"\x12" + b"\xff" * 9 + b"\x01",  # 2^64 of them
        b"\x08" + b"\xff" * 11,  # a number without end
        b"\x25\0\0",  # half of four bytes
        b"\x0b",  # a group
        b"\x1a\x02\x08\xff\x01",  # a number that goes on behind its message
    ],
)
def test_what_is_cut_off_or_lies_is_damaged(tmp_path: Path, content: bytes) -> None:
    with message(tmp_path / "m", content) as held, pytest.raises(ModelFormatError, match="not a whole model"):
        for number, value in held.fields(held.whole):
            if number == 3 and isinstance(value, tuple):
                list(held.fields(value))


def test_fields_without_end_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protobuf, "_MOST_FIELDS", 100)
    with message(tmp_path / "m", b"\x08\x01" * 101) as held, pytest.raises(ModelFormatError, match="more than 100 fields"):
        list(held.fields(held.whole))


def test_a_name_without_end_is_refused(tmp_path: Path) -> None:
    with message(tmp_path / "m", b"\x0a\x81\x80\x04" + b"x" * 65537) as held, pytest.raises(ModelFormatError, match="65,537 bytes"):
        held.text((4, held.size))


def test_what_is_skipped_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, size = tmp_path / "m", 2**30
    with file.open("wb") as stream:
        stream.write(b"\x0a\x80\x80\x80\x80\x04")
        stream.seek(6 + size)
        stream.write(b"\x10\x2a")
    read: list[int] = []
    pread = os.pread

    def counted(fd: int, count: int, at: int) -> bytes:
        read.append(count)
        return pread(fd, count, at)

    monkeypatch.setattr(os, "pread", counted)
    with Message(file, "model", "export it again") as held:
        assert dict(held.fields(held.whole)) == {1: (6, 6 + size), 2: 42}
    assert sum(read) < 2**18


@pytest.mark.parametrize(("content", "says"), [(b"", "is empty"), (b"version https://git-lfs.github.com", "Git LFS pointer")])
def test_what_is_no_model_at_all_is_told(tmp_path: Path, content: bytes, says: str) -> None:
    with pytest.raises(ModelFormatError, match=says):
        message(tmp_path / "m", content)
