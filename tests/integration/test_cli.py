"""Every command does its work, prints what it should where it should, and is quick where it loads nothing."""

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgekit.cli import main
from edgekit.tflite import package
from tests.commands import PROGRAM, edgekit, environment
from tests.unit.classifiers import image_classifier, text_classifier

COMMANDS = (
    "advise",
    "benchmark",
    "bundle",
    "compare",
    "completion",
    "convert",
    "demo",
    "diagnose",
    "distill",
    "evaluate",
    "export",
    "finetune",
    "guide",
    "inspect",
    "optimize",
    "predict",
    "prune",
    "report",
    "run",
    "setup",
)


@pytest.fixture(scope="module")
def converted(tiny_bert: Path, tiny_tsv: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with float32 and dynamic files of the tiny BERT at 16 tokens, made by the command line."""
    out = tmp_path_factory.mktemp("cli") / "out"
    said = edgekit(
        "convert",
        tiny_bert,
        *("--scheme", "float32", "--scheme", "dynamic", "--max-drop", "1"),
        *("--representative-data", tiny_tsv, "--max-length", "16", "--out", out),
    )
    assert said.code == 0, said.err
    # Stages as they begin, how they go, and remarks; a busy machine makes more lines, what a library says would make more names.
    stages = [line for line in said.err if ": " not in line]
    assert len(stages) <= 6
    assert all(line.partition(": ")[0] in ("convert", *stages) for line in said.err)
    assert "\x1b" not in said.out
    assert f"{out / 'bert_dynamic.tflite'}\n" in said.out
    return out


@pytest.fixture
def float32(converted: Path) -> Path:
    return converted / "bert_float32.tflite"


@pytest.fixture
def dynamic(converted: Path) -> Path:
    return converted / "bert_dynamic.tflite"


def test_convert_writes_files_manifests_and_the_tokenizer(converted: Path) -> None:
    names = {file.name for file in converted.iterdir() if not file.name.startswith(".")}
    assert {"bert_float32.tflite", "bert_float32.json", "bert_dynamic.tflite", "bert_dynamic.json", "tokenizer.json"} <= names
    manifest = json.loads((converted / "bert_dynamic.json").read_text())
    assert manifest["config"]["scheme"] == "dynamic"
    assert manifest["measured"]["measurement"]["drop"]["total"] == 64
    assert manifest["size_bytes"] == (converted / "bert_dynamic.tflite").stat().st_size


def test_evaluate_finds_the_tokenizer_beside_the_file(float32: Path, dynamic: Path, tiny_tsv: Path) -> None:
    said = edgekit("evaluate", dynamic, "--dataset", tiny_tsv, "--against", float32, "--quiet")
    assert (said.code, said.err) == (0, [])
    accuracy, agreement = said.out.splitlines()
    assert accuracy.startswith(f"{dynamic}: accuracy 0.")
    assert "of 64), 95 % interval 0." in accuracy
    assert f"agreement with {float32}" in agreement


def test_evaluate_agrees_with_the_figures_that_convert_found(float32: Path, tiny_tsv: Path) -> None:
    found = json.loads(edgekit("evaluate", float32, "--dataset", tiny_tsv, "--json").out)
    promised = json.loads(float32.with_suffix(".json").read_text())["measured"]["measurement"]
    assert found["metric"] == promised["metric"]
    assert found["scheme"] == "float32"
    assert found["latency"] is found["samples_per_s"] is None


def test_evaluate_takes_arrays(float32: Path, tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    arrays = {"input_ids": draw.integers(5, 40, (30, 16)).astype(np.int32), "attention_mask": np.ones((30, 16), np.int32)}
    np.savez(tmp_path / "rows.npz", label=draw.integers(0, 2, 30), allow_pickle=False, **arrays)
    said = edgekit("evaluate", float32, "--dataset", tmp_path / "rows.npz", "--limit", "20")
    assert said.code == 0
    assert "of 20)" in said.out


def test_a_published_float32_file_is_a_source_with_its_own_tokenizer(float32: Path, tiny_tsv: Path, tmp_path: Path) -> None:
    alone = tmp_path / "alone.tflite"
    alone.write_bytes(float32.read_bytes())
    said = edgekit("convert", alone, "--scheme", "float16", "--evaluation-data", tiny_tsv, "--out", tmp_path / "out", "--json")
    assert said.code == 0, said.err
    measured = json.loads(said.out)["published"][0]["measurement"]
    promised = json.loads(float32.with_suffix(".json").read_text())["measured"]["measurement"]
    assert measured["metric"]["count"] == pytest.approx(promised["metric"]["count"], abs=1)


@pytest.mark.parametrize("broken", ["judged", "against"])
def test_evaluate_of_what_is_no_model_is_unusable_input(float32: Path, tiny_tsv: Path, broken: str) -> None:
    file, against = (tiny_tsv, float32) if broken == "judged" else (float32, tiny_tsv)
    said = edgekit("evaluate", file, "--dataset", tiny_tsv, "--against", against)
    assert said.code == 3
    assert said.err == [f"edgekit: error: {tiny_tsv}: not a .tflite file (no TFL3 at byte 4); give one, or convert it first"]


def test_evaluate_without_labels_says_so(float32: Path, tiny_tsv: Path, tmp_path: Path) -> None:
    texts = [line.split("\t")[0] for line in tiny_tsv.read_text().splitlines()]
    (tmp_path / "texts.tsv").write_text("\n".join(texts) + "\n")
    said = edgekit("evaluate", float32, "--dataset", "texts.tsv", folder=tmp_path)
    assert said.code == 0
    assert "ran on 64 rows of texts.tsv, which has no labels" in said.out


def test_benchmark_names_a_broken_file_and_measures_the_others(
    float32: Path, dynamic: Path, tiny_tsv: Path, tmp_path: Path
) -> None:
    broken = tmp_path / "broken.tflite"
    broken.write_bytes(float32.read_bytes()[:20000])
    page = tmp_path / "page.html"
    files = (broken, float32, dynamic)
    said = edgekit("benchmark", *files, "--dataset", tiny_tsv, "--runs", "5", "--rounds", "1", "--json", "--out", page)
    assert said.code == 0
    rows = json.loads(said.out)["rows"]
    assert [row["latency"] is None for row in rows] == [True, False, False]
    assert str(broken) in rows[0]["failure"]
    assert rows[2]["agreement"]["total"] == 64
    assert page.read_text().startswith("<!")
    alone = edgekit("benchmark", broken, "--runs", "5", "--rounds", "1", "--json", "--quiet")
    assert alone.code == 3
    assert len(alone.err) == 1
    assert str(broken) in json.loads(alone.out)["error"]


def test_benchmark_adds_the_file_that_it_compares_with(float32: Path, dynamic: Path) -> None:
    said = edgekit("benchmark", dynamic, "--against", float32, "--runs", "5", "--rounds", "1", "--json")
    report = json.loads(said.out)
    assert [row["path"] for row in report["rows"]] == [str(dynamic), str(float32)]
    assert report["reference"] == str(float32)
    assert report["data"].startswith("random values")


@pytest.mark.parametrize("suffix", [".html", ".md", ".json"])
def test_report_of_a_converted_folder(converted: Path, tmp_path: Path, suffix: str) -> None:
    said = edgekit("report", converted, "--out", tmp_path / f"report{suffix}")
    assert said.code == 0
    assert "dynamic" in (tmp_path / f"report{suffix}").read_text()
    again = edgekit("report", converted, "--out", tmp_path / f"report{suffix}")
    assert again.code == 6


def test_inspect_as_text_and_as_json(float32: Path) -> None:
    said = edgekit("inspect", float32)
    assert "input_ids" in said.out
    summary = json.loads(edgekit("inspect", float32, "--json").out)
    assert {tensor["name"] for tensor in next(iter(summary["signatures"].values()))["inputs"]} == {"input_ids", "attention_mask"}


def test_export_to_onnx(tiny_bert: Path, tmp_path: Path) -> None:
    target = tmp_path / "new" / "bert.onnx"
    said = edgekit("export", tiny_bert, "--format", "onnx", "--max-length", "16", "--out", target, "--json")
    assert said.code == 0, said.err
    manifest = json.loads(said.out)
    assert manifest["size_bytes"] == target.stat().st_size
    assert manifest["measured"]["parity"]["PyTorch to ONNX"]["max_rel"] < 1e-3


@pytest.mark.parametrize("command", [(), ("guide",)])
def test_without_a_command_the_help_is_shown_as_it_is(command: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main.main([*command])
    said = capsys.readouterr()
    assert (ended.value.code, said.out) == (2, "")
    assert said.err.startswith(" ".join(("Usage: edgekit", *command)))
    assert "\nOptions:\n" in said.err


@pytest.mark.parametrize("command", [(), *((name,) for name in COMMANDS)], ids=" ".join)
def test_help_names_the_exit_codes(command: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main.main([*command, "--help"])
    assert ended.value.code == 0
    shown = capsys.readouterr().out
    assert "130 interrupted" in shown
    assert not command or len(shown.splitlines()) > 8


def test_the_test_knows_every_command() -> None:
    assert tuple(sorted(main.cli.commands)) == COMMANDS


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_script(shell: str) -> None:
    assert "_EDGEKIT_COMPLETE" in edgekit("completion", shell).out


def test_bash_completes_commands_options_and_schemes() -> None:
    def offered(words: str, place: int) -> set[str]:
        script = edgekit("completion", "bash").out
        assert subprocess.run(["bash", "-n"], input=script, text=True, check=False).returncode == 0
        said = edgekit(extra={"_EDGEKIT_COMPLETE": "bash_complete", "COMP_WORDS": words, "COMP_CWORD": str(place)})
        return {line.partition(",")[2] for line in said.out.splitlines()}

    assert offered("edgekit con", 1) == {"convert"}
    assert offered("edgekit convert --sch", 2) == {"--scheme"}
    assert {"int8", "int16x8", "all"} <= offered("edgekit convert --scheme ", 3)


def test_a_reader_that_stops_early_is_no_failure(float32: Path) -> None:
    for arguments in (("inspect", str(float32), "--json"), ("benchmark", str(float32), "--runs", "3", "--rounds", "1")):
        with subprocess.Popen([*PROGRAM, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment()) as process:
            assert process.stdout is not None
            assert process.stderr is not None
            process.stdout.close()
            said = process.stderr.read().decode()
        assert process.returncode == 0
        assert "Traceback" not in said
        assert "Broken" not in said


def test_a_terminal_without_the_characters_gets_others(float32: Path) -> None:
    said = edgekit("benchmark", float32, "--runs", "3", "--rounds", "1", extra={"PYTHONIOENCODING": "ascii"})
    assert said.code == 0
    assert "float32" in said.out


def _best(*arguments: str | Path) -> float:
    seconds = []
    for _ in range(3):
        started = time.perf_counter()
        assert edgekit(*arguments).code == 0
        seconds.append(time.perf_counter() - started)
    return min(seconds)


@pytest.mark.timing
def test_help_takes_a_fifth_of_a_second() -> None:
    assert _best("--help") <= 0.2


@pytest.mark.timing
def test_inspect_of_a_megabyte_takes_a_second(tmp_path: Path) -> None:
    (file := tmp_path / "large.tflite").write_bytes(text_classifier(1024, 256))
    assert file.stat().st_size > 2**20
    assert _best("inspect", file) <= 1.0


@pytest.mark.timing
def test_inspect_of_ten_megabytes_of_onnx_takes_a_second(tmp_path: Path) -> None:
    nodes = [helper.make_node("MatMul", ["x", "w"], ["a0"])]
    nodes += [helper.make_node("Add", [f"a{number}", "b"], [f"a{number + 1}"]) for number in range(1000)]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 1600]) for name in ("x", "a1000")]
    weights = {"w": np.ones((1600, 1600), np.float32), "b": np.ones(1600, np.float32)}
    tensors = [numpy_helper.from_array(array, name) for name, array in weights.items()]
    onnx.save(helper.make_model(helper.make_graph(nodes, "g", ends[:1], ends[1:], tensors)), file := tmp_path / "large.onnx")
    assert file.stat().st_size > 10**7
    assert _best("inspect", file) <= 1.0


@pytest.fixture
def alone(dynamic: Path, tmp_path: Path) -> Path:
    """The dynamic file in a folder of its own: no tokenizer and no manifest beside it."""
    return Path(shutil.copy(dynamic, tmp_path / "alone.tflite"))


def test_predict_needs_the_file_alone(alone: Path, dynamic: Path, tiny_tsv: Path) -> None:
    rows = [line.split("\t") for line in tiny_tsv.read_text().splitlines()[1:]]
    done = subprocess.run(
        [*PROGRAM, "predict", str(alone), "--json", "-"],
        input="".join(f"{text}\n" for text, _ in rows),
        capture_output=True,
        text=True,
        env=environment(),
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert all(set(line) == {"label", "scores", "milliseconds"} for line in found)
    assert all(list(line["scores"]) == ["negative", "positive"] for line in found)
    right = sum(["negative", "positive"].index(line["label"]) == int(label) for line, (_, label) in zip(found, rows, strict=True))
    manifest = json.loads(dynamic.with_suffix(".json").read_text())
    assert right == manifest["measured"]["measurement"]["metric"]["count"]


def test_predict_prints_a_line_for_each_text_and_tells_what_it_cut(alone: Path) -> None:
    said = edgekit("predict", alone, "a lovely film", "", "film " * 40)
    assert said.code == 0
    assert [len(line.split("\t")) for line in said.out.splitlines()] == [4, 4, 4]
    assert said.err == [
        "edgekit: note: input 2: the text is empty",
        "edgekit: note: input 3: the text is too long: cut to the 16 tokens that the model takes, as in training",
    ]


def test_predict_tells_what_is_wrong_in_one_line(alone: Path, tmp_path: Path) -> None:
    bare = tmp_path / "elsewhere" / "bare.tflite"
    bare.parent.mkdir()
    bare.write_bytes(package.strip(alone.read_bytes()))
    (image := tmp_path / "image.tflite").write_bytes(image_classifier())
    for arguments, code, line in (
        ((image, ""), 3, f"error: {image}: takes images, and the name given is empty"),
        ((bare, "a"), 3, "holds no tokenizer, and there is no tokenizer.json beside it"),
        ((tmp_path / "absent.tflite", "a"), 3, "no such file"),
        ((alone, "a", "--pair", "b"), 3, "takes single texts"),
        ((alone, "caf\udce9"), 3, "a text is not UTF-8"),
        ((alone, "a", "b", "--pair", "c"), 2, "--pair goes with one text"),
    ):
        said = edgekit("predict", *arguments)
        assert (said.code, said.out) == (code, "")
        assert len(said.err) == 1
        assert line in said.err[0]


def test_predict_numbers_the_line_that_it_cannot_read(alone: Path) -> None:
    done = subprocess.run(
        [*PROGRAM, "predict", str(alone), "-"], input=b"fine\ncaf\xe9\n", capture_output=True, env=environment(), check=False
    )
    assert (done.returncode, done.stdout.count(b"\n")) == (3, 1)
    assert done.stderr.decode().startswith(f"edgekit: error: input 2: {alone}: a text is not UTF-8")


def test_predict_survives_what_crashes_the_interpreter(alone: Path) -> None:
    crash = (
        "import os, edgekit.workflows.predict as p; p.Predictor = lambda *a, **k: os.abort(); "
        "from edgekit.cli.main import main; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", crash, "predict", str(alone), "a"], capture_output=True, text=True, env=environment(), check=False
    )
    assert done.returncode == 5
    assert done.stderr.splitlines() == [
        f"edgekit: error: {alone}: the interpreter crashed with SIGABRT; convert or download the file again"
    ]


def test_evaluate_takes_tokenizer_and_labels_from_the_file(alone: Path, dynamic: Path, tiny_tsv: Path) -> None:
    inside = json.loads(edgekit("evaluate", alone, "--dataset", tiny_tsv, "--json").out)
    beside = json.loads(edgekit("evaluate", dynamic, "--dataset", tiny_tsv, "--json").out)
    assert inside["metric"] == beside["metric"]


def test_predict_loads_no_framework(alone: Path) -> None:
    script = (
        "import json, os, sys; os.fork = lambda: 0; import edgekit.system.child as child; "
        "child.die_with_parent = lambda parent: None\n"
        "import atexit; atexit.register(lambda: print(json.dumps(sorted(sys.modules)), file=sys.stderr))\n"
        "from edgekit.cli.main import main; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, "predict", str(alone), "a"], capture_output=True, text=True, env=environment(), check=False
    )
    loaded = {name.split(".")[0] for name in json.loads(done.stderr)}
    assert not loaded & {"torch", "tensorflow", "transformers", "matplotlib", "PIL", "psutil"}
    assert {"tokenizers", "ai_edge_litert"} <= loaded
