import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekit.data.sources import ArrayRows, ColumnNames, ImageRows, TextRows, feeding, is_fraction, read, take
from edgekit.errors import DatasetError
from edgekit.spec import DataSpec, TensorSpec

RECORDS = [("good film", 1), ("a \"bad' film", 0), ("the film", 1)]


def write(path: Path, content: str | bytes) -> str:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return str(path)


def write_parquet(path: Path, columns: dict[str, list[Any]]) -> str:
    import pyarrow
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.table(columns), path)
    return str(path)


def texts(source: Any, limit: int | None = None, **spec: Any) -> TextRows:
    rows = read(DataSpec(source, **spec), limit=limit)
    assert isinstance(rows, TextRows)
    return rows


@pytest.fixture(params=["tsv", "csv", "jsonl", "parquet"])
def table(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    path = tmp_path / f"rows.{request.param}"
    if request.param == "parquet":
        return write_parquet(path, {"sentence": [text for text, _ in RECORDS], "label": [label for _, label in RECORDS]})
    if request.param == "jsonl":
        return write(path, "".join(json.dumps({"sentence": text, "label": label}) + "\n" for text, label in RECORDS))
    if request.param == "csv":
        return write(path, 'sentence,label\ngood film,1\n"a ""bad\' film",0\nthe film,1\n')
    return write(path, "sentence\tlabel\n" + "".join(f"{text}\t{label}\n" for text, label in RECORDS))


def test_every_table_format_gives_the_same_rows(table: str) -> None:
    rows = texts(table)
    assert rows.texts == tuple(text for text, _ in RECORDS)
    assert rows.labels == (1, 0, 1)
    assert rows.pairs is None
    assert rows.origin == table


def test_limit_bounds_what_is_read(table: str) -> None:
    assert texts(table, limit=2).texts == ("good film", "a \"bad' film")
    assert len(texts(table, limit=50)) == 3


def test_limit_stops_before_a_later_fault(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tsv", b"sentence\tlabel\ngood\t1\nb\xff\t0\n")
    assert texts(path, limit=1).texts == ("good",)


def test_quotation_marks_of_a_tsv_are_characters(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tsv", 'sentence\tlabel\n"open\t1\nshut"\t0\n')
    assert texts(path).texts == ('"open', 'shut"')


def test_csv_fields_may_hold_commas_and_line_breaks(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", 'text,label\r\n"one,\r\ntwo",1\r\nthree,0\r\n')
    assert texts(path).texts == ("one,\r\ntwo", "three")


def test_byte_order_mark_and_windows_line_ends(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tsv", b"\xef\xbb\xbfsentence\tlabel\r\ngood\t1\r\n\r\n")
    rows = texts(path)
    assert (rows.texts, rows.labels) == (("good",), (1,))


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (("idx", "sentence1", "sentence2", "label"), ("b", "c")),
        (("premise", "hypothesis", "idx", "label"), ("a", "b")),
        (("question", "sentence", "idx", "label"), ("a", "b")),
        (("question1", "question2", "idx", "label"), ("a", "b")),
        (("Text_A", "Text_B", "idx", "label"), ("a", "b")),
        (("idx", "content", "id", "category"), ("b", None)),
        (("review", "idx", "id", "TARGET"), ("a", None)),
    ],
)
def test_columns_are_found_by_name(tmp_path: Path, header: tuple[str, ...], expected: tuple[str, str | None]) -> None:
    rows = texts(write(tmp_path / "a.tsv", "\t".join(header) + "\na\tb\tc\t2\n"))
    assert (rows.texts[0], rows.pairs[0] if rows.pairs else None) == expected
    assert rows.labels == (2,)


def test_named_columns_win(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tsv", "sentence\tother\tlabel\tmood\na\tb\t1\thappy\n")
    rows = texts(path, text_columns=("other",), label_columns=("mood",))
    assert (rows.texts, rows.labels) == (("b",), ("happy",))
    pair = texts(path, text_columns=("other", "sentence"))
    assert (pair.texts, pair.pairs) == (("b",), ("a",))


def test_labels_in_every_spelling_of_a_number(tmp_path: Path) -> None:
    path = write(
        tmp_path / "a.jsonl",
        '{"text":"a","label":true}\n{"text":"b","label":"2"}\n{"text":"c","label":3.0}\n{"text":"d","label":"no"}\n',
    )
    assert texts(path).labels == (1, 2, 3, "no")


@pytest.mark.parametrize(("name", "content"), [("a.jsonl", '{"text":"a","label":0.5}\n'), ("a.tsv", "text\tlabel\na\t0.5\n")])
def test_a_regressions_values_are_read_alike_in_every_format(tmp_path: Path, name: str, content: str) -> None:
    found = texts(write(tmp_path / name, content)).labels
    assert found == ("0.5",)
    assert is_fraction(found[0])
    assert not any(is_fraction(label) for label in ("v1.5", "1.0.2", "1.0", "3", 3, "five", "."))


def test_rows_without_labels_are_read_unless_labels_are_asked_for(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "text,id\na,1\n")
    assert texts(path).labels is None
    with pytest.raises(DatasetError, match=r"'text', 'id'.*--label-column"):
        read(DataSpec(path), labelled=True)


def test_no_column_fits(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tsv", "phrase\tscore\na\t1\n")
    with pytest.raises(DatasetError, match=r"'phrase', 'score'.*--text-column"):
        read(DataSpec(path))
    with pytest.raises(DatasetError, match=r"'phrases'.*did you mean phrase\?"):
        read(DataSpec(path, text_columns=("phrases",)))
    with pytest.raises(DatasetError, match="--label-column"):
        read(DataSpec(path, text_columns=("phrase",), label_columns=("zzz",)))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.tsv", b"", "is empty"),
        ("a.csv", b"\n\n", "is empty"),
        ("a.jsonl", b"", "is empty"),
        ("a.parquet", b"", "is empty"),
        ("a.npz", b"", "is empty"),
        ("a.tsv", b"sentence\tlabel\n", "holds no rows"),
        ("a.csv", b"sentence,label\n", "holds no rows"),
        ("a.tsv", b"sentence\tlabel\na\t1\nb\n", "line 3 has 1 fields where the header has 2"),
        ("a.csv", b'text,label\n"a\nb",1\nc,0,1\n', "line 4 has 3 fields"),
        ("a.csv", b'text,label\na,1\n"b,0\n', "line 3: .*quoting"),
        ("a.tsv", b"sentence\tlabel\ngood\t1\nb\xe9d\t0\n", r"byte offset 23 \(line 3\)"),
        ("a.csv", b"sentence,label\ngood,1\nb\xe9d,0\n", r"byte offset 23 \(line 3\)"),
        ("a.tsv", "sentence\tlabel\n".encode("utf-16"), r"byte offset 0 \(line 1\)"),
        ("a.jsonl", b'{"text":"a"}\n{"text":\n', "line 2 is not JSON"),
        ("a.jsonl", b'[{"text":"a"}]\n', "line 1 is not a JSON object"),
        ("a.jsonl", b'{"text":"a"}\n{"words":"b"}\n', "row 1 .* holds nothing in column 'text'"),
        ("a.jsonl", b'{"text":"a"}\n{"text":7}\n', "row 1 .* holds int in column 'text'"),
        ("a.jsonl", b'{"text":"\\ud800"}\n', "row 0 .* surrogate"),
        ("a.jsonl", b'{"text":"a","label":NaN}\n', "row 0 .* holds nan in column 'label', not a class"),
        ("a.csv", b"text,label\na,1\nb,\n", "row 1 .* holds nothing in column 'label'"),
        ("a.tsv", b"text\ttext\na\tb\n", "two columns are named 'text'"),
        ("a.parquet", b"PAR1 and then nothing", "not a Parquet file"),
        ("a.npz", b"PK and then nothing", "not a whole .npz"),
        ("a.xlsx", b"x", "no known format.*tsv"),
    ],
)
def test_faults_are_named_in_one_line(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    path = write(tmp_path / name, content)
    with pytest.raises(DatasetError, match=message) as caught:
        read(DataSpec(path))
    assert str(caught.value).startswith(path)
    assert "\n" not in str(caught.value)


def test_parquet_without_rows(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="holds no rows"):
        read(DataSpec(write_parquet(tmp_path / "a.parquet", {"text": [], "label": []})))


def test_truncated_parquet_is_damaged(tmp_path: Path) -> None:
    path = Path(write_parquet(tmp_path / "a.parquet", {"text": [f"text {number}" for number in range(5000)]}))
    whole = bytearray(path.read_bytes())
    whole[4:200] = bytes(196)
    path.write_bytes(whole)
    with pytest.raises(DatasetError, match="Parquet"):
        read(DataSpec(str(path)))


@pytest.mark.parametrize("name", ["missing.tsv", "missing.npz", "missing"])
def test_missing_path(tmp_path: Path, name: str) -> None:
    with pytest.raises(DatasetError, match="does not exist"):
        read(DataSpec(str(tmp_path / name)))


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads every file")
def test_unreadable_file(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tsv", "text\na\n")
    Path(path).chmod(0)
    with pytest.raises(DatasetError, match="cannot be read"):
        read(DataSpec(path))


def test_take_remembers_where_rows_came_from(table: str) -> None:
    taken = take(take(texts(table), [2, 1]), np.array([1]))
    assert isinstance(taken, TextRows)
    assert (taken.texts, taken.labels, list(taken.numbers)) == (("a \"bad' film",), (0,), [1])


def test_npz_arrays_and_labels(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    values = np.arange(24, dtype=np.float32).reshape(4, 3, 2)
    np.savez_compressed(path, x=values, columns=np.asfortranarray(values[:, :, 0]), y=np.array([[0], [1], [2], [3]], np.uint8))
    rows = read(DataSpec(str(path)), limit=3)
    assert isinstance(rows, ArrayRows)
    np.testing.assert_array_equal(rows.arrays["x"], values[:3])
    np.testing.assert_array_equal(rows.arrays["columns"], values[:3, :, 0])
    assert rows.labels is not None
    assert (rows.labels.dtype.name, rows.labels.tolist()) == ("int64", [0, 1, 2])
    last = take(rows, [2])
    assert isinstance(last, ArrayRows)
    assert last.labels is not None
    assert (last.arrays["x"][0, 0, 0], last.labels.tolist()) == (12, [2])


def test_an_array_that_an_input_is_called_after_is_no_label(tmp_path: Path) -> None:
    y = np.arange(8, dtype=np.float32).reshape(4, 2)
    np.savez(tmp_path / "a.npz", x=y, y=y)
    rows = take(read(DataSpec(str(tmp_path / "a.npz"))), [1, 2])
    assert isinstance(rows, ArrayRows)
    assert (list(rows.arrays), rows.labels is None) == (["x"], False)
    fed = feeding(rows, [TensorSpec("x", (1, 2), "float32"), TensorSpec("y", (1, 2), "float32")])
    assert fed.labels is None
    assert {name: array.tolist() for name, array in fed.arrays.items()} == {"x": y[1:3].tolist(), "y": y[1:3].tolist()}
    named = read(DataSpec(str(tmp_path / "a.npz"), label_columns=("y",)))
    assert feeding(named, [TensorSpec("y", (1, 2), "float32")]) is named


@pytest.mark.parametrize(("stored", "read_as"), [([0.0, 2.0], "int64"), ([0.5, 2.0], "float64")])
def test_npz_labels_of_a_regression_are_kept(tmp_path: Path, stored: list[float], read_as: str) -> None:
    np.savez(tmp_path / "a.npz", x=np.zeros((2, 2)), y=np.array(stored))
    rows = read(DataSpec(str(tmp_path / "a.npz")))
    assert isinstance(rows, ArrayRows)
    assert rows.labels is not None
    assert (rows.labels.tolist(), rows.labels.dtype.name) == (stored, read_as)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": np.zeros((3, 2)), "y": np.zeros(2, int)}, "x 3, y 2"),
        ({"x": np.array([{}, {}], dtype=object)}, "Python objects"),
        ({"y": np.zeros(3, int)}, "no input array"),
        ({"x": np.zeros((3, 2)), "y": np.zeros((3, 2, 1))}, "one integer per row"),
        ({"x": np.zeros((3, 2)), "y": np.full(3, np.nan)}, "one integer per row"),
        ({"x": np.zeros((0, 2))}, "holds no rows"),
        ({"x": np.float32(1)}, "single number"),
        ({}, "no arrays"),
    ],
)
def test_unusable_npz(tmp_path: Path, arrays: dict[str, Any], message: str) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, **arrays)
    with pytest.raises(DatasetError, match=message):
        feeding(read(DataSpec(str(path))), [TensorSpec("x", (1, 2), "float32")])


TAGGED = ColumnNames((("tokens",),), ("ner_tags",))
ASKED = ColumnNames((("question", "context"),), ("answers",))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.conll", "-DOCSTART- -X- O O\n\nAda NNP I-NP B-PER\nran VBD I-VP O\n\n\nOslo NNP I-NP B-LOC\n"),
        ("a.iob2", "# id = 1\nAda\tB-PER\nran\tO\n\nOslo\tB-LOC\n\n"),
        ("a.txt", b"\xef\xbb\xbfAda B-PER\r\nran O\r\n\r\nOslo B-LOC"),
    ],
)
def test_conll_files(tmp_path: Path, name: str, content: str | bytes) -> None:
    rows = read(DataSpec(write(tmp_path / name, content)), TAGGED)
    assert isinstance(rows, TextRows)
    assert (rows.texts, rows.labels) == ((("Ada", "ran"), ("Oslo",)), (("B-PER", "O"), ("B-LOC",)))
    assert len(read(DataSpec(str(tmp_path / name)), TAGGED, limit=1)) == 1


def test_the_four_columns_of_conll_2003(tmp_path: Path) -> None:
    path = write(tmp_path / "a.conll", "Ada NNP I-NP B-PER\n# # O O\n")
    assert read(DataSpec(path, label_columns=("pos_tags",)), TAGGED).labels == (("NNP", "#"),)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.conll", "Ada B-PER\nran\n", "line 2 has 1 fields, the first word's line 2; give a word and its tag a line"),
        ("a.txt", "one long line of prose\nand more\n", "line 2 has 2 fields"),
        ("a.txt", "prose\n", "line 1 has 1 fields"),
        ("a.iob", "\n\n", "is empty"),
        ("a.json", "{", "is not JSON"),
        ("a.json", "[]", "is empty"),
        ("a.json", '{"version": 1}', "holds no list of objects"),
        ("a.json", '{"data": [{"paragraphs": [{"qas": [{"question": "q"}], "context": "c"}]}]}', "nor questions as SQuAD"),
    ],
)
def test_faults_of_conll_and_json_are_named(tmp_path: Path, name: str, content: str, message: str) -> None:
    with pytest.raises(DatasetError, match=message) as caught:
        read(DataSpec(write(tmp_path / name, content)), TAGGED)
    assert "\n" not in str(caught.value)


def test_squads_json_and_flat_objects_are_the_same_rows(tmp_path: Path) -> None:
    answers = [{"text": "Oslo", "answer_start": 10}, {"text": "in Oslo", "answer_start": 7}]
    questions = [{"question": "Where?", "id": "1", "answers": answers}, {"question": "Why?", "is_impossible": True, "answers": []}]
    nested = {"version": "v2", "data": [{"title": "t", "paragraphs": [{"context": "Ada is in Oslo", "qas": questions}]}]}
    flat = [
        {"question": "Where?", "context": "Ada is in Oslo", "answers": {"text": ["Oslo", "in Oslo"], "answer_start": [10, 7]}},
        {"question": "Why?", "context": "Ada is in Oslo", "answers": {"text": [], "answer_start": []}},
    ]
    for number, held in enumerate((nested, flat, {"data": flat})):
        rows = read(DataSpec(write(tmp_path / f"{number}.json", json.dumps(held))), ASKED)
        assert isinstance(rows, TextRows)
        assert (rows.texts, rows.pairs) == (("Where?", "Why?"), ("Ada is in Oslo",) * 2)
        assert rows.labels == tuple(row["answers"] for row in flat)


PEOPLE = {"text": ["good film", "bad"], "label": [1, 0]}


def test_rows_in_memory_are_read_as_a_table_is() -> None:
    import datasets
    import pandas

    records = [dict(zip(PEOPLE, row, strict=True)) for row in zip(*PEOPLE.values(), strict=True)]
    for source in (records, tuple(records), PEOPLE, pandas.DataFrame(PEOPLE), datasets.Dataset.from_dict(PEOPLE)):
        rows = texts(source)
        assert (rows.texts, rows.labels, rows.origin) == (("good film", "bad"), (1, 0), "rows in memory")
        assert texts(source, limit=1).texts == ("good film",)
    arrays = {"text": np.array(PEOPLE["text"]), "label": np.array(PEOPLE["label"])}
    assert texts(arrays).labels == (1, 0)


def test_a_dataset_in_memory_names_its_classes_and_tags() -> None:
    import datasets

    names = ["O", "B-PER"]
    tags = datasets.Sequence(datasets.ClassLabel(names=names))
    features = datasets.Features({"tokens": datasets.Sequence(datasets.Value("string")), "mood": tags})
    rows = read(
        DataSpec(datasets.Dataset.from_dict({"tokens": [["Ada", "went"]], "mood": [[1, 0]]}, features)),
        ColumnNames((("tokens",),), ("tags",)),
    )
    assert isinstance(rows, TextRows)
    assert (rows.texts, rows.labels, rows.class_names) == ((("Ada", "went"),), ((1, 0),), ("O", "B-PER"))


def test_arrays_in_memory() -> None:
    import pandas

    values = np.arange(6, dtype=np.float32).reshape(3, 2)
    rows = read(DataSpec({"x": values, "y": [0, 1, 2]}), limit=2)
    assert isinstance(rows, ArrayRows)
    assert rows.labels is not None
    assert (rows.arrays["x"].tolist(), rows.labels.tolist()) == ([[0, 1], [2, 3]], [0, 1])
    table = read(DataSpec(pandas.DataFrame({"a": [1.0, 2.0], "target": [0.5, 1.5]}), label_columns=("target",)))
    assert isinstance(table, ArrayRows)
    assert (list(table.arrays), table.labels.tolist() if table.labels is not None else None) == (["a"], [0.5, 1.5])


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ([], "no rows"),
        (7, "a int of this form is no rows; give a list of dicts"),
        (["good", "bad"], "a list of this form is no rows"),
        ({"text": "good"}, "a dict of this form is no rows"),
        ({"text": np.float32(1)}, "no rows"),
        ({"text": np.array(1)}, "no rows"),
        ({}, "no rows"),
        ({"text": []}, "holds no rows"),
        ({"text": ["a", "b"], "label": [1]}, "text 2, label 1"),
        ([{"text": "a"}, {"label": 1}], r"row 1 \(from 0\) holds nothing in column 'text'"),
        ([{"text": "a", "label": 1}, {"text": "b"}], r"row 1 \(from 0\) holds nothing in column 'label'"),
        ([{"words": "a"}], "no text column among 'words'"),
        ({"x": [[1.0], [1.0, 2.0]]}, "no text column"),
    ],
)
def test_rows_in_memory_of_another_form_are_refused_in_one_line(source: Any, message: str) -> None:
    with pytest.raises(DatasetError, match=message) as caught:
        read(DataSpec(source))
    assert str(caught.value).startswith("rows in memory: ")
    assert "\n" not in str(caught.value)


def test_several_label_columns_are_read_side_by_side(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "text,toxic,rude\na,0,1\nb,1,1\n")
    rows = texts(path, label_columns=("rude", "toxic"))
    assert (rows.labels, rows.label_columns) == (((1, 0), (1, 1)), ("rude", "toxic"))


def test_npz_cut_or_changed_anywhere_is_a_dataset_error_or_read_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez_compressed(path, x=np.arange(64, dtype=np.float32).reshape(8, 8), y=np.arange(8))
    whole = path.read_bytes()
    generator = np.random.default_rng(0)
    for length in range(0, len(whole), 7):
        path.write_bytes(whole[:length])
        with pytest.raises(DatasetError):
            read(DataSpec(str(path)))
    for place in range(len(whole)):
        changed = bytearray(whole)
        changed[place] ^= int(generator.integers(1, 256))
        path.write_bytes(changed)
        try:
            read(DataSpec(str(path)))
        except DatasetError as error:
            assert str(path) in str(error)


def image_folder(folder: Path, table: str, names: str | None = None, below: str = "images") -> str:
    from PIL import Image

    (folder / below).mkdir(parents=True, exist_ok=True)
    for name in ("one.png", "two.png"):
        Image.new("RGB", (4, 4)).save(folder / below / name)
    (folder / "labels.tsv").write_text(table)
    if names is not None:
        (folder / "class_names.txt").write_text(names)
    return str(folder)


@pytest.mark.parametrize("below", ["images", "."])
def test_image_folder(tmp_path: Path, below: str) -> None:
    rows = read(DataSpec(image_folder(tmp_path, "file\tlabel\none.png\tdog\ntwo.png\t0\n", "cat\ndog\n", below)))
    assert isinstance(rows, ImageRows)
    assert rows.files == (tmp_path / below / "one.png", tmp_path / below / "two.png")
    assert (rows.labels, rows.class_names) == ((1, 0), ("cat", "dog"))
    second = take(rows, [1])
    assert isinstance(second, ImageRows)
    assert (second.files[0].name, second.labels) == ("two.png", (0,))


def test_numbers_are_names_where_the_classes_of_an_image_folder_are_called_by_numbers(tmp_path: Path) -> None:
    rows = read(DataSpec(image_folder(tmp_path, "file\tlabel\none.png\t1\ntwo.png\t3.0\n", "1\n2\n3\n")))
    assert isinstance(rows, ImageRows)
    assert rows.labels == (0, 2)
    with pytest.raises(DatasetError, match="label '0' but class_names.txt does not hold it"):
        read(DataSpec(image_folder(tmp_path, "file\tlabel\none.png\t0\n", "1\n2\n3\n")))
    mixed = read(DataSpec(image_folder(tmp_path, "file\tlabel\none.png\t1\n", "1\ncat\n")))
    assert isinstance(mixed, ImageRows)
    assert mixed.labels == (1,)


def test_image_folder_without_labels(tmp_path: Path) -> None:
    rows = read(DataSpec(image_folder(tmp_path, "file\none.png\ntwo.png\n")), limit=1)
    assert isinstance(rows, ImageRows)
    assert (len(rows), rows.labels) == (1, None)


@pytest.mark.parametrize(
    ("table", "names", "message"),
    [
        ("name\tlabel\none.png\t1\n", None, "columns file and label"),
        ("file\tlabel\nthree.png\t1\n", None, "'three.png' in row 0"),
        ("file\tlabel\none.png\tcat\n", None, "no class_names.txt"),
        ("file\tlabel\none.png\tcow\n", "cat\ndog\n", "'cow' but class_names.txt does not hold it"),
        ("file\tlabel\none.png\t1\ntwo.png\t2\n", "cat\ndog\n", "row 1 .* label 2, outside the 2 classes"),
        ("file\tlabel\none.png\t-1\n", None, "label -1, outside"),
        ("file\tlabel\none.png\t1\n", "\n", "class_names.txt: is empty"),
        ("file\tlabel\n", None, "holds no rows"),
    ],
)
def test_unusable_image_folder(tmp_path: Path, table: str, names: str | None, message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        read(DataSpec(image_folder(tmp_path, table, names)))


def test_folder_without_a_table(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"holds no labels.tsv.*hub:"):
        read(DataSpec(str(tmp_path)))


def test_shared_data_is_read(shared: Path) -> None:
    rows = texts(str(shared / "data/sst2/dev.tsv"))
    assert (len(rows), set(rows.labels or ())) == (872, {0, 1})
    images = read(DataSpec(str(shared / "data/imagenet_val")), limit=5)
    assert isinstance(images, ImageRows)
    assert len(images.class_names or ()) == 1000
    keywords = read(DataSpec(str(shared / "data/kws/mfcc.npz")), limit=4)
    assert isinstance(keywords, ArrayRows)
    assert keywords.arrays["x"].shape == (4, 49, 10, 1)
