"""How sound files are damaged: bytes of any kind, texts, and formats whose own sums and lengths would give a change away at once.

Each takes the content, a seeded draw and another sound file of the kind; the same seed makes the same bytes again."""

import io
import itertools
import json
import random
import re
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from typing import Any

Damage = Callable[[bytes, random.Random, bytes], bytes]

DEEP = 100_000
_EXTREMES = (0, 1, -1, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1)
_TIMES = (1, 1, 1, 2, 4, 16)
_LENGTHS = (1, 4, 16, 256, 4096)
# What an offset or a length of a small file looks like, and weights do not.
_SMALL = range(1, 2**16)
# JSON has no form in Python for these: each is written in place of its mark.
_MARKS = {
    "@lists@": "[" * DEEP + "]" * DEEP,
    "@objects@": '{"a":' * DEEP + "1" + "}" * DEEP,
    "@digits@": "9" * 5000,
    "@exponent@": "1e99999",
}
_VALUES: tuple[Any, ...] = (
    *(None, True, False, [], {}, [[]], [None], {"": None}, [0] * 100_000),
    *(0, -1, 1, 2**31, 2**32, 2**63 - 1, 2**63, 2**64, 10**30, 0.5, 1e308, -1e-320, float("nan"), float("inf")),
    *("", " ", "\0", "\ud800", "\u202e", "1", "x" * 100_000, "../" * 8 + "etc/passwd", "/dev/zero", "%s{0}$(id)"),
    *_MARKS,
)
_KEYS = ("", "x", "\0", "__class__", "source", "type", "files", "0")
_WORDS = (
    *(b"", b"0", b"-1", b"nan", b"inf", b"true", b"null", b"1e999", b"9" * 5000, str(2**63).encode(), str(2**64).encode()),
    *(b'"', b"'", b"'''", b"\\", b"#", b",", b"\t", b"\r", b"\0", b"\xff", b"\xed\xa0\x80", "\u2028".encode()),
    *(b"x" * 100_000, b"[" * DEEP, b'{"a":' * DEEP, b"(" * 2000, b"../../../etc/passwd", b"/dev/zero", b"/", b".."),
)
_WORD = re.compile(rb"[^\s,;:=\"'(){}\[\]]+")
_CRC_BYTES = 4


def of_bytes(content: bytes, draw: random.Random, other: bytes) -> bytes:
    """One change, or several one after the other."""
    for _ in range(draw.choice(_TIMES)):
        content = draw.choice(_CHANGES)(content, draw, other)
    return content


def of_text(content: bytes, draw: random.Random, other: bytes) -> bytes:
    """Most changes leave a text of the same format, with something else in it; the others leave none."""
    change = draw.choice((_retyped, _retyped, _retyped, _reworded, _lines, _spoiled, of_bytes))
    return change(content, draw, other)


def of_tflite(content: bytes, draw: random.Random, other: bytes) -> bytes:
    """Bytes of the model, or of one of the files behind it where there are some."""
    names = sorted(_members(content)) if draw.random() < 0.2 else []
    return of_packed(draw.choice(names))(content, draw, other) if names else of_bytes(content, draw, other)


def of_packed(name: str) -> Damage:
    """The text `name` in the archive behind a model, with the sums that fit it."""

    def damaged(content: bytes, draw: random.Random, other: bytes) -> bytes:
        files = _members(content)
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            start = min(item.header_offset for item in archive.infolist())
        files[name] = of_text(files.get(name, b"{}"), draw, _members(other).get(name, b""))
        return _archived(content[:start], files)

    return damaged


def of_metadata(content: bytes, draw: random.Random, other: bytes) -> bytes:
    """Bytes of the TFLITE_METADATA inside a model, which begin four before its identifier."""
    start = max(0, content.find(b"M001") - 4)
    part = content[start : start + 2048]
    for _ in range(draw.choice(_TIMES)):
        part = draw.choice((_flip, _overwrite, _extreme))(part, draw, other)
    return _put(content, start, part)


def of_npz(content: bytes, draw: random.Random, other: bytes) -> bytes:
    """An array's header or values with the sums that fit them, its name, or any bytes."""
    if draw.random() < 0.3:
        return of_bytes(content, draw, other)
    files = _members(content)
    name = draw.choice(sorted(files))
    if draw.random() < 0.1:
        files[draw.choice(("../../x.npy", ".npy", "labels.npy", "\0.npy", "x"))] = files.pop(name)
    else:
        files[name] = _array(files[name], draw, other)
    return _archived(b"", files)


def of_safetensors(content: bytes, draw: random.Random, other: bytes) -> bytes:
    """The JSON header with its length, which mostly fits it, or any bytes."""
    if draw.random() < 0.3:
        return of_bytes(content, draw, other)
    (length,) = struct.unpack_from("<Q", content)
    header = of_text(content[8 : 8 + length], draw, other)
    said = draw.choice(_EXTREMES) % 2**64 if draw.random() < 0.1 else len(header)
    return struct.pack("<Q", said) + header + content[8 + length :]


def of_png(content: bytes, draw: random.Random, other: bytes) -> bytes:
    """A chunk with the sum that fits it, or any bytes."""
    if draw.random() < 0.3:
        return of_bytes(content, draw, other)
    chunks, place = [], 8
    while place + 8 <= len(content):
        (length,) = struct.unpack_from(">I", content, place)
        chunks.append((content[place + 4 : place + 8], content[place + 8 : place + 8 + length]))
        place += 8 + length + _CRC_BYTES
    number = draw.randrange(len(chunks))
    kind, data = chunks[number]
    chunks[number] = kind, draw.choice((of_bytes, _flip, _extreme))(data, draw, other)
    if draw.random() < 0.1:
        chunks.insert(number, draw.choice(chunks))
    parts = (struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks)
    return content[:8] + b"".join(parts)


def _place(content: bytes, draw: random.Random) -> int:
    """Any place, or one where an offset or a length seems to stand: most of a model's bytes are weights, which mean nothing."""
    if draw.random() < 0.5:
        return draw.randrange(max(1, len(content)))
    place = 0
    for _ in range(64):
        place = 4 * draw.randrange(max(1, len(content) // 4))
        if int.from_bytes(content[place : place + 4], "little") in _SMALL:
            break
    return place


def _put(content: bytes, start: int, new: bytes) -> bytes:
    """`new` in the place of as many bytes; the length stays."""
    return content[:start] + new[: len(content) - start] + content[start + len(new) :]


def _flip(content: bytes, draw: random.Random, _: bytes) -> bytes:
    changed = bytearray(content)
    for _ in range(draw.choice((1, 1, 2, 8, 64)) if content else 0):
        changed[_place(content, draw)] ^= 1 << draw.randrange(8)
    return bytes(changed)


def _overwrite(content: bytes, draw: random.Random, _: bytes) -> bytes:
    length = draw.choice(_LENGTHS)
    return _put(content, _place(content, draw), draw.choice((draw.randbytes(length), bytes(length), b"\xff" * length)))


def _extreme(content: bytes, draw: random.Random, _: bytes) -> bytes:
    width = draw.choice((1, 2, 4, 4, 4, 8))
    number = draw.choice(_EXTREMES) % 2 ** (8 * width)
    return _put(content, _place(content, draw) // width * width, number.to_bytes(width, "little"))


def _cut(content: bytes, draw: random.Random, _: bytes) -> bytes:
    start = draw.randrange(len(content) + 1)
    return content[:start] + draw.choice((b"", content[start + draw.choice(_LENGTHS) :]))


def _extend(content: bytes, draw: random.Random, _: bytes) -> bytes:
    length = draw.choice((*_LENGTHS, 2**16))
    return content + draw.choice((draw.randbytes(length), bytes(length), content[-length:]))


def _repeat(content: bytes, draw: random.Random, _: bytes) -> bytes:
    start, length = _place(content, draw), draw.choice(_LENGTHS)
    return content[:start] + content[start : start + length] * draw.choice((2, 2, 17)) + content[start + length :]


def _swap(content: bytes, draw: random.Random, _: bytes) -> bytes:
    one, two, length = _place(content, draw), _place(content, draw), draw.choice(_LENGTHS)
    first, second = content[one : one + length], content[two : two + length]
    return _put(_put(content, one, second), two, first)


def _splice(content: bytes, draw: random.Random, other: bytes) -> bytes:
    start = draw.randrange(len(content) + 1)
    return content[:start] + other[draw.choice((start, draw.randrange(len(other) + 1))) :]


_CHANGES: tuple[Damage, ...] = (_flip, _flip, _overwrite, _extreme, _extreme, _extreme, _cut, _extend, _repeat, _swap, _splice)


def _retyped(content: bytes, draw: random.Random, other: bytes) -> bytes:
    """A value of a JSON text, or of one line of it, gone, under another key, or with something else in its place."""
    lines = content.split(b"\n")
    place = draw.randrange(len(lines))
    for text, before, after in ((content, [], []), (lines[place], lines[:place], lines[place + 1 :])):
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):
            continue
        if isinstance(value, dict | list):
            written = json.dumps(_changed(value, draw))
            for mark, meant in _MARKS.items():
                written = written.replace(json.dumps(mark), meant)
            return b"\n".join([*before, written.encode(), *after])
    return _reworded(content, draw, other)


def _changed(value: Any, draw: random.Random) -> Any:
    places = [*_places(value)]
    if not places or draw.random() < 0.02:
        return draw.choice(_VALUES)
    holder, key = draw.choice(places)
    way = draw.random()
    if way < 0.1:
        del holder[key]
    elif way < 0.2 and isinstance(holder, dict):
        holder[draw.choice(_KEYS)] = holder.pop(key)
    elif way < 0.35:
        # Of the same text: a copy, since what holds the place would hold itself.
        taken_from, taken = draw.choice(places)
        holder[key] = json.loads(json.dumps(taken_from[taken]))
    else:
        holder[key] = draw.choice(_VALUES)
    return value


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Each value inside as what holds it and its key or index there."""
    waiting = [value]
    while waiting:
        held = waiting.pop()
        for key, item in held.items() if isinstance(held, dict) else enumerate(held):
            yield held, key
            if isinstance(item, dict | list):
                waiting.append(item)


def _reworded(content: bytes, draw: random.Random, _: bytes) -> bytes:
    """A word or number with another in its place."""
    found = [*itertools.islice(_WORD.finditer(content), 100_000)]
    start, end = draw.choice(found).span() if found else (0, 0)
    return content[:start] + draw.choice(_WORDS) + content[end:]


def _lines(content: bytes, draw: random.Random, _: bytes) -> bytes:
    """Lines gone, repeated, in another place, or parted in another way."""
    lines = content.split(b"\n")
    one, two = draw.randrange(len(lines)), draw.randrange(len(lines))
    match draw.randrange(7):
        case 0:
            del lines[one]
        case 1:
            lines[one:one] = lines[one : one + 1] * draw.choice((1, 1000))
        case 2:
            lines[one], lines[two] = lines[two], lines[one]
        case 3:
            lines[one] += draw.choice((b"\t", b",", b"\t\t\t", b',"', b"\r", b"\x0b"))
        case 4:
            lines[one] = lines[one].replace(draw.choice((b"\t", b",", b" ", b'"')), b"")
        case 5:
            lines = lines[: one + 1]
        case _:
            return draw.choice((b" ", b"\r", b"\r\n", b"\n\n")).join(lines)
    return b"\n".join(lines)


def _spoiled(content: bytes, draw: random.Random, other: bytes) -> bytes:
    """What no format takes, or takes only just."""
    place = draw.randrange(len(content) + 1)
    before, after = content[:place], content[place:]
    match draw.randrange(10):
        case 0:
            return draw.choice((b"", b"\n", b" \n\t\n", b"\0", b"null", b"{}", b"[]", b'""', b"0"))
        case 1:
            return b"\xef\xbb\xbf" * draw.choice((1, 2)) + content
        case 2:
            return content.decode(errors="replace").encode(draw.choice(("utf-16", "utf-32", "utf-7")))
        case 3:
            return before + b"\0" * draw.choice((1, 4096)) + after
        case 4:
            return before + draw.choice((b"\xff", b"\x80", b"\xc3", b"\xed\xa0\x80", b"\xf8\x88\x80\x80\x80")) + after
        case 5:
            return before + b"x" * draw.choice((2**17, 2**22)) + after
        case 6:
            return draw.choice((b"[", b'{"a":', b"a = " + b"[", b"[[", b"a.")) * DEEP
        case 7:
            return before + b"[" * DEEP + b"]" * DEEP + after
        case 8:
            return before + draw.choice((b"\x1b[2J", "\u202e".encode(), "\u2028".encode(), b"\r")) + after
        case _:
            return before + other


def _array(content: bytes, draw: random.Random, other: bytes) -> bytes:
    """The header of a .npy member, which is a Python literal, or its values."""
    if draw.random() < 0.4 or content[:6] != b"\x93NUMPY":
        return of_bytes(content, draw, other)
    (length,) = struct.unpack_from("<H", content, 8)
    header = _reworded(content[10 : 10 + length], draw, other)
    return content[:8] + struct.pack("<H", min(len(header), 2**16 - 1)) + header + content[10 + length :]


def _members(content: bytes) -> dict[str, bytes]:
    """The files in an archive, or in that behind a model; none where there is none."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            return {name: archive.read(name) for name in archive.namelist()}
    except zipfile.BadZipFile:
        return {}


def _archived(front: bytes, files: dict[str, bytes]) -> bytes:
    """`files` as an archive behind `front`; the same files always make the same bytes."""
    held = io.BytesIO(front)
    with zipfile.ZipFile(held, "a", zipfile.ZIP_STORED) as archive:
        for name, content in files.items():
            archive.writestr(zipfile.ZipInfo(name), content)
    return held.getvalue()
