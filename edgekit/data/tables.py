"""Columns of .tsv, .csv, .jsonl and .parquet files.

A .tsv file has a header line and no quoting (a quotation mark is a character like any other, as in GLUE); a .csv file has a
header line and RFC 4180 quoting; a .jsonl file has one object a line, and its columns are the fields of the first.
Text is UTF-8. Blank lines are skipped.
"""

import csv
import itertools
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from edgekit.errors import DatasetError

SUFFIXES = (".tsv", ".csv", ".jsonl", ".parquet")


def column_names(path: Path) -> tuple[str, ...]:
    """The file's column names, in order. Raises `DatasetError` if it is empty, not of its format, or repeats a name."""
    try:
        if path.suffix.lower() == ".parquet":
            names = _parquet(path).schema_arrow.names
        elif path.suffix.lower() == ".jsonl":
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
    """The named columns' values of the first `limit` rows; a field that a .jsonl object lacks is None.

    Raises `DatasetError` naming the line that is ragged, not JSON or not UTF-8, or if there are no rows.
    """
    try:
        if path.suffix.lower() == ".parquet":
            columns = _parquet_columns(path, names, limit)
        elif path.suffix.lower() == ".jsonl":
            objects = [[record.get(name) for name in names] for _, record in itertools.islice(_objects(path), limit)]
            columns = {name: [row[place] for row in objects] for place, name in enumerate(names)}
        else:
            columns = _text_columns(path, names, limit)
    except OSError as error:
        raise DatasetError(f"{path}: cannot be read ({error.strerror or error}); check the path and its permissions") from None
    if not any(columns.values()):
        raise DatasetError(f"{path}: holds no rows; give a file with at least one")
    return columns


def _text_columns(path: Path, names: Sequence[str], limit: int | None) -> dict[str, list[Any]]:
    records = _records(path)
    _, header = next(records)
    places = [header.index(name) for name in names]
    rows = []
    for line, fields in itertools.islice(records, limit):
        if len(fields) != len(header):
            raise DatasetError(f"{path}: line {line} has {len(fields)} fields where the header has {len(header)}; mend that line")
        rows.append([fields[place] for place in places])
    return {name: [row[place] for row in rows] for place, name in enumerate(names)}


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
    for number, line in _lines(path):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DatasetError(f"{path}: line {number} is not JSON ({error}); give one object a line") from None
        if not isinstance(record, dict):
            raise DatasetError(f"{path}: line {number} is not a JSON object; give one object a line")
        yield number, record


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Number and text of each line; decoded one by one so that a wrong byte can be named."""
    offset = 0
    with path.open("rb") as stream:
        for number, raw in enumerate(stream, start=1):
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
    remaining = limit
    try:
        for batch in _parquet(path).iter_batches(batch_size=min(limit or 8192, 8192), columns=list(names)):
            kept = batch if remaining is None else batch.slice(0, remaining)
            for name in names:
                columns[name].extend(kept.column(name).to_pylist())
            if remaining is not None:
                remaining -= kept.num_rows
                if remaining <= 0:
                    break
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"{path}: damaged Parquet file ({error}); write it again") from None
    return columns
