"""Columns of .tsv, .csv, .jsonl, .json, .parquet and CoNLL files.

A .tsv file has a header line and no quoting (a quotation mark is a character like any other, as in GLUE); a .csv file has a
header line and RFC 4180 quoting; a .jsonl file has one object a line, and its columns are the fields of the first. A .json file
is a list of such objects, or nests questions as SQuAD does: they have the columns question, context and answers. A CoNLL file
has a word a line with its tag at the end, and a blank line behind each sentence: the columns are tokens and ner_tags, and
where there are four a line pos_tags and chunk_tags as well. Text is UTF-8. Blank lines are skipped in the others."""

import csv
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from edgekit.errors import DatasetError
from edgekit.system.serial import parse_json

_CONLL = (".conll", ".iob", ".iob2", ".bio", ".txt")
_OBJECTS = (".jsonl", ".json", *_CONLL)
SUFFIXES = (".tsv", ".csv", *_OBJECTS, ".parquet")
# SQuAD's questions stand on one line of 42 MB.
_LONGEST_LINE = 2**28
_MOST_ROWS = 10**7
_CONLL_2003 = ("tokens", "pos_tags", "chunk_tags", "ner_tags")


def column_names(path: Path) -> tuple[str, ...]:
    """The file's column names, in order. Raises `DatasetError` if it is empty, not of its format, or repeats a name."""
    try:
        if path.suffix.lower() == ".parquet":
            names = _parquet(path).schema_arrow.names
        elif path.suffix.lower() in _OBJECTS:
            names = next((list(record) for _, record in _objects(path)), [])
        else:
            names = next((fields for _, fields in _records(path)), [])
    except OSError as error:
        raise DatasetError(f"{path}: cannot be read ({error.strerror or error}); check the path and its permissions") from None
    if not names:
        raise DatasetError(f"{path}: is empty; give a file with at least one row")
    if repeated := [name for name in names if names.count(name) > 1]:
        raise DatasetError(f"{path}: two columns are named {repeated[0]!r}; rename one of them")
    return tuple(names)


def read_columns(path: Path, names: Sequence[str], limit: int | None) -> dict[str, list[Any]]:
    """The named columns' values of the first `limit` rows; a field that an object lacks is None.

    Raises `DatasetError` naming the line that is ragged, not JSON or not UTF-8, or if there are no rows."""
    try:
        if path.suffix.lower() == ".parquet":
            columns = _parquet_columns(path, names, limit)
        else:
            rows = _object_rows(path, names) if path.suffix.lower() in _OBJECTS else _text_rows(path, names)
            columns = {name: [] for name in names}
            for row in itertools.islice(rows, _MOST_ROWS + 1 if limit is None else min(limit, _MOST_ROWS + 1)):
                for name, value in zip(names, row, strict=True):
                    columns[name].append(value)
            _check_count(path, max(map(len, columns.values())))
    except OSError as error:
        raise DatasetError(f"{path}: cannot be read ({error.strerror or error}); check the path and its permissions") from None
    if not any(columns.values()):
        raise DatasetError(f"{path}: holds no rows; give a file with at least one")
    return columns


def _check_count(path: Path, count: int) -> None:
    if count > _MOST_ROWS:
        raise DatasetError(f"{path}: has more than {_MOST_ROWS:,} rows, which memory does not hold; give a part of it")


def _object_rows(path: Path, names: Sequence[str]) -> Iterator[list[Any]]:
    return ([record.get(name) for name in names] for _, record in _objects(path))


def _text_rows(path: Path, names: Sequence[str]) -> Iterator[list[str]]:
    records = _records(path)
    _, header = next(records)
    places = [header.index(name) for name in names]
    for line, fields in records:
        if len(fields) != len(header):
            raise DatasetError(f"{path}: line {line} has {len(fields)} fields where the header has {len(header)}; mend that line")
        yield [fields[place] for place in places]


def _records(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Line number and fields of each record that is not blank, the header first."""
    if path.suffix.lower() == ".tsv":
        for number, line in _lines(path):
            if text := line.rstrip("\r\n"):
                yield number, text.split("\t")
        return
    reader = csv.reader((line for _, line in _lines(path)), strict=True)
    while True:
        number = reader.line_num + 1
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise DatasetError(f"{path}: line {number}: {error}; mend the quoting of that record") from None
        if fields:
            yield number, fields


def _objects(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Line number, or that of the object, and fields of each."""
    if path.suffix.lower() in _CONLL:
        yield from _sentences(path)
        return
    if path.suffix.lower() == ".json":
        yield from enumerate(_json(path), start=1)
        return
    for number, line in _lines(path):
        if not line.strip():
            continue
        try:
            record = parse_json(line)
        except ValueError as error:
            raise DatasetError(f"{path}: line {number} is not JSON ({error}); give one object a line") from None
        if not isinstance(record, dict):
            raise DatasetError(f"{path}: line {number} is not a JSON object; give one object a line")
        yield number, record


def _json(path: Path) -> list[dict[str, Any]]:
    """Objects of a list, or SQuAD's questions (https://rajpurkar.github.io/SQuAD-explorer) with their contexts."""
    try:
        held = parse_json("".join(line for _, line in _lines(path)))
    except ValueError as error:
        raise DatasetError(f"{path}: is not JSON ({error}); give a list of objects, or SQuAD's form") from None
    records: Any = held.get("data") if isinstance(held, dict) else held
    try:
        nested = [paragraph for article in records for paragraph in article["paragraphs"]]
        rows = [(question, paragraph["context"]) for paragraph in nested for question in paragraph["qas"]]
        records = [
            {
                "question": question["question"],
                "context": context,
                "answers": {key: [answer[key] for answer in question["answers"]] for key in ("text", "answer_start")},
            }
            for question, context in rows
        ]
    except (KeyError, TypeError):
        pass
    if not isinstance(records, list) or not all(isinstance(record, dict) and "paragraphs" not in record for record in records):
        raise DatasetError(f"{path}: holds no list of objects, nor questions as SQuAD nests them; give one of these, or .jsonl")
    return records


def _sentences(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Line number of a sentence's first word, and its columns; see https://www.clips.uantwerpen.be/conll2003/ner/."""
    width, start, words = 0, 1, list[list[str]]()
    for number, line in itertools.chain(_lines(path), [(0, "")]):
        fields = line.rstrip("\r\n").split("\t") if "\t" in line else line.split()
        if (fields and fields[0] == "-DOCSTART-") or (line.startswith("# ") and "=" in line):
            continue
        if fields and any(fields):
            start, width = start if words else number, width or len(fields)
            if len(fields) != width or width < 2:
                raise DatasetError(
                    f"{path}: line {number} has {len(fields)} fields, the first word's line {width}; "
                    "give a word and its tag a line and a blank line behind each sentence (CoNLL)"
                )
            words.append([field.strip() for field in fields])
        elif words:
            columns = [list(column) for column in zip(*words, strict=True)]
            names = _CONLL_2003 if width == len(_CONLL_2003) else ("tokens", "ner_tags")
            yield start, dict(zip(names, columns if len(names) == width else (columns[0], columns[-1]), strict=True))
            words = []


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Number and text of each line; decoded one by one so that a wrong byte can be named."""
    offset = 0
    with path.open("rb") as stream:
        for number, raw in enumerate(iter(lambda: stream.readline(_LONGEST_LINE + 1), b""), start=1):
            if len(raw) > _LONGEST_LINE:
                raise DatasetError(f"{path}: line {number} has more than {_LONGEST_LINE >> 20} MB; is this a file of that format?")
            try:
                text = raw.decode("utf-8")
            except UnicodeDecodeError as error:
                raise DatasetError(
                    f"{path}: not UTF-8 at byte offset {offset + error.start} (line {number}); convert it, for example with iconv"
                ) from None
            offset += len(raw)
            yield number, text.removeprefix("\ufeff") if number == 1 else text


def _parquet(path: Path) -> Any:
    import pyarrow
    import pyarrow.parquet

    if path.stat().st_size == 0:
        raise DatasetError(f"{path}: is empty; give a file with at least one row")
    try:
        return pyarrow.parquet.ParquetFile(path)
    except (pyarrow.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise DatasetError(f"{path}: not a Parquet file ({error}); write it again") from None


def _parquet_columns(path: Path, names: Sequence[str], limit: int | None) -> dict[str, list[Any]]:
    import pyarrow

    columns: dict[str, list[Any]] = {name: [] for name in names}
    try:
        for batch in _parquet(path).iter_batches(batch_size=min(limit or 8192, 8192), columns=list(names)):
            for name, values in columns.items():
                values.extend(batch.column(name).to_pylist())
            _check_count(path, len(columns[names[0]]))
            if limit is not None and len(columns[names[0]]) >= limit:
                break
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"{path}: damaged Parquet file ({error}); write it again") from None
    return {name: values[:limit] for name, values in columns.items()}
