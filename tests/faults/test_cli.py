"""Whatever is wrong with what a user hands in: one line, the exit code of its class, and nothing changed on disk."""

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import pytest

from tests.commands import PROGRAM, edgekit, environment

Contents = Callable[[Path], dict[str, bytes]]

CONVERT = ("convert", "bert", "--out", "new/out", "--scheme")
CALIBRATE = (*CONVERT, "int8", "--max-length", "16", "--representative-data")
FINETUNE = ("finetune", "--out", "new/out", "--model", "bert", "--dataset")
EXPORT = ("export", "bert", "--out", "new/out.onnx", "--format")

WRONG: list[tuple[int, str, tuple[str, ...]]] = [
    # 2: options, recipes and combinations of them
    (2, "No such command 'convrt'", ("convrt",)),
    (2, "Missing argument 'MODEL'", ("convert",)),
    (2, "Missing option '--scheme'", ("convert", "bert")),
    (2, "Missing option '--format'", ("export", "bert")),
    (2, "No such option '--shceme'", ("convert", "bert", "--shceme", "int8")),
    (2, "'float32', 'float16', 'dynamic', 'int8', 'int16x8', 'all'", (*CONVERT, "int9")),
    (2, "'minmax', 'percentile', 'mse', 'entropy'", (*CONVERT, "int8", "--calibration", "median")),
    (2, "scheme int8 calibrates on real samples", (*CONVERT, "int8")),
    (2, "'--max-drop'", (*CONVERT, "float32", "--max-drop", "much")),
    (2, "max_drop is 7", (*CONVERT, "float32", "--max-drop", "7")),
    (2, "max_drop is nan", (*CONVERT, "float32", "--max-drop", "nan")),
    (2, "integer_only: changes int8 files only", (*CONVERT, "dynamic", "--integer-only")),
    (2, "plan: changes int8 files only", (*CONVERT, "float16", "--plan", "plan.json")),
    (2, "search_seconds is -1", (*CONVERT, "float32", "--search-seconds", "-1")),
    (2, "search_seconds is inf", (*CONVERT, "float32", "--search-seconds", "inf")),
    (2, "nowhere.json: cannot be read (No such file or directory)", (*CALIBRATE, "good.tsv", "--plan", "nowhere.json")),
    (2, "text.tflite: holds no int8 plan", (*CALIBRATE, "good.tsv", "--plan", "text.tflite")),
    (2, "threads is 0", (*CONVERT, "float32", "--threads", "0")),
    (2, "threads is 100000", (*CONVERT, "float32", "--threads", "100000")),
    (2, "'--seed'", (*CONVERT, "float32", "--seed", "-1")),
    (2, "NAME=1,3,224,224", (*CONVERT, "float32", "--input-shape", "wide")),
    (2, "max_length is 0", (*CONVERT, "float32", "--max-length", "0")),
    (2, "maximum length of 2 leaves no room", (*CONVERT, "float32", "--max-length", "2")),
    (2, "max_length is 129 but bert takes 128 tokens", (*CONVERT, "float32", "--max-length", "129")),
    (2, "token ids", (*CONVERT, "int8", "--inputs", "int8", "--representative-data", "good.tsv")),
    (2, "token ids, which --mean and --std do not normalize", (*CONVERT, "float32", "--mean", "0")),
    (
        2,
        "--bridge litert is not for onnx",
        ("convert", "text.onnx", "--bridge", "litert", "--scheme", "float32"),
    ),
    (2, "max_length is 500 but bert takes 128", (*EXPORT, "onnx", "--max-length", "500")),
    (2, "'tflite' is not one of", (*EXPORT, "tflite")),
    (2, "epochs is 0", (*FINETUNE, "good.tsv", "--epochs", "0")),
    (2, "runs is 0", ("benchmark", "text.tflite", "--runs", "0")),
    (2, "no such report format", ("benchmark", "text.tflite", "--out", "page.pdf")),
    (2, "'--limit'", ("evaluate", "text.tflite", "--dataset", "good.tsv", "--limit", "-3")),
    (2, "did you mean 'model'?", ("run", "unknown.toml")),
    (2, "not UTF-8 at byte 8", ("run", "latin.toml")),
    (2, "nowhere.toml: cannot be read", ("run", "nowhere.toml")),
    # 3: checkpoints and model files
    (3, "nowhere/at/all: no such folder", ("convert", "./nowhere/at/all", "--scheme", "float32")),
    (3, "~nobody-of-that-name/bert: no such folder", ("convert", "~nobody-of-that-name/bert", "--scheme", "float32")),
    (3, "File name too long; check the path", ("convert", "x" * 300 + ".onnx", "--scheme", "float32")),
    (3, "holds no config.json", ("convert", "empty", "--scheme", "float32", "--out", "new/out")),
    (3, "not a model that edgekit reads", ("convert", "good.tsv", "--scheme", "float32")),
    (3, "not an ONNX model", ("convert", "text.onnx", "--scheme", "float32", "--out", "new/out")),
    (3, "holds no weights", ("convert", "noweights", "--scheme", "float32", "--out", "new/out")),
    (3, "not a readable safetensors file", ("convert", "truncated", "--scheme", "float32", "--out", "new/out")),
    (3, "holds no tokenizer", ("convert", "notokenizer", "--scheme", "float32", "--out", "new/out")),
    (3, "is a file, not a checkpoint", ("export", "text.onnx", "--format", "onnx", "--out", "new/out.onnx")),
    (3, "empty.tflite: empty", ("inspect", "empty.tflite")),
    (3, "no TFL3 at byte 4", ("inspect", "text.tflite")),
    (3, "holds no config.json", ("inspect", "empty")),
    (3, "not a whole ONNX model", ("inspect", "text.onnx")),
    (3, "nowhere.pt2: no such file", ("inspect", "nowhere.pt2")),
    (3, "truncated/model.safetensors: not a readable safetensors file", ("inspect", "truncated")),
    (3, "nowhere.tflite: no such file", ("benchmark", "nowhere.tflite")),
    (3, "neither report.json nor .tflite files", ("report", "empty", "--out", "new/report.html")),
    # 3: data
    (3, "nowhere.tsv: does not exist", (*CALIBRATE, "nowhere.tsv")),
    (3, "latin.tsv: not UTF-8 at byte offset 18 (line 2)", (*CALIBRATE, "latin.tsv")),
    (3, "bytes.tsv: not UTF-8 at byte offset 1", (*CALIBRATE, "bytes.tsv")),
    (3, "no text column among", (*CALIBRATE, "headless.tsv")),
    (3, "no column 'sense' among", (*CALIBRATE, "good.tsv", "--label-column", "sense")),
    (3, "row 12 (from 0) has 7, the head's 2 classes", (*CALIBRATE, "outside.tsv")),
    (3, "empty.tsv: is empty", (*CALIBRATE, "empty.tsv")),
    (3, "few.tsv: has 3 rows, too few", (*CALIBRATE, "few.tsv")),
    (3, "constant", (*CALIBRATE, "constant.tsv")),
    (3, "holds no labels.tsv", (*CALIBRATE, "empty")),
    (3, "expects int32 (16,) per sample but found int32 (8,)", (*CALIBRATE, "shape.npz")),
    (3, "found float32 (16,)", (*CALIBRATE, "dtype.npz")),
    (3, "sample 5 (from 0) has an id outside", (*CALIBRATE, "ids.npz")),
    (3, "not a whole .npz file", (*CALIBRATE, "truncated.npz")),
    (3, "no label column", (*FINETUNE, "unlabelled.tsv")),
    (3, "not of the form hub:NAME", (*FINETUNE, "hub:")),
    # 6: outputs
    (6, "new_file: cannot be written", ("convert", "bert", "--scheme", "float32", "--out", "new_file")),
    (6, "cannot be written", ("convert", "bert", "--scheme", "float32", "--out", "new_file/below")),
    (6, "cannot be written", (*FINETUNE, "good.tsv", "--out", "new_file/below")),
    *(
        (6, "page.html: exists already; add --overwrite", (*command, "--out", "page.html"))
        for command in (
            ("report", "empty"),
            ("benchmark", "text.tflite"),
            ("compare", "bert", "--dataset", "good.tsv"),
            ("diagnose", "text.tflite", "--against", "text.tflite", "--data", "good.tsv"),
        )
    ),
    (6, "bert: exists already", (*FINETUNE, "good.tsv", "--out", "bert")),
]


@pytest.fixture(scope="module")
def place(tiny_bert: Path, tiny_tsv: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a sound checkpoint `bert`, sound rows `good.tsv`, and everything that can be wrong with either."""
    folder = tmp_path_factory.mktemp("wrong")
    lines = tiny_tsv.read_text().splitlines()
    tables = {
        "good": lines,
        "headless": lines[1:],
        "unlabelled": [line.split("\t")[0] for line in lines],
        "outside": [*lines[:13], "a film\t7", *lines[13:]],
        "few": lines[:4],
        "constant": [lines[0], *(["a film\t1"] * 40)],
    }
    for name, rows in tables.items():
        (folder / f"{name}.tsv").write_text("\n".join(rows) + "\n")
    (folder / "latin.tsv").write_bytes("sentence\tlabel\nsch\xf6n\t1\n".encode("latin-1"))
    (folder / "bytes.tsv").write_bytes(b"T\xff\x00\x80" * 100)
    (folder / "empty.tsv").write_bytes(b"")
    (folder / "empty").mkdir()
    (folder / "empty.tflite").write_bytes(b"")
    for name in ("text.tflite", "text.onnx", "new_file", "page.html"):
        (folder / name).write_text("what a person wrote" * 20)
    (folder / "unknown.toml").write_text('name = "x"\nout = "o"\n[modle]\nsource = "bert"\n')
    (folder / "latin.toml").write_bytes(b'name = "\xf6"\n')
    for name in ("bert", "noweights", "truncated", "notokenizer"):
        shutil.copytree(tiny_bert, folder / name)
    (folder / "noweights" / "model.safetensors").unlink()
    weights = folder / "truncated" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[: weights.stat().st_size // 2])
    for file in (folder / "notokenizer").glob("tokenizer*"):
        file.unlink()
    _arrays(folder)
    return folder


def _arrays(folder: Path) -> None:
    ids = np.random.default_rng(0).integers(5, 40, (40, 16)).astype(np.int32)
    mask = np.ones_like(ids)
    outside = ids.copy()
    outside[5, 3] = 100_000
    np.savez(folder / "shape.npz", input_ids=ids[:, :8], attention_mask=mask)
    np.savez(folder / "dtype.npz", input_ids=ids.astype(np.float32), attention_mask=mask)
    np.savez(folder / "ids.npz", input_ids=outside, attention_mask=mask)
    (folder / "truncated.npz").write_bytes((folder / "shape.npz").read_bytes()[:900])


def _snapshot(folder: Path) -> dict[str, tuple[int, int]]:
    return {str(item.relative_to(folder)): (item.stat().st_size, item.stat().st_mtime_ns) for item in folder.rglob("*")}


@pytest.mark.parametrize(("code", "cause", "arguments"), WRONG, ids=[" ".join(case[2])[:60] for case in WRONG])
def test_one_line_and_the_code_of_its_class(place: Path, code: int, cause: str, arguments: tuple[str, ...]) -> None:
    before = _snapshot(place)
    quiet = ("--quiet",) if len(arguments) > 1 else ()
    said = edgekit(*arguments, *quiet, folder=place)
    assert (said.code, said.out) == (code, "")
    assert len(said.err) == 1
    assert said.err[0].startswith("edgekit: error: ")
    assert cause in said.err[0]
    assert _snapshot(place) == before


def test_a_refused_command_with_json_says_so_in_json(place: Path) -> None:
    said = edgekit(*CALIBRATE, "few.tsv", "--json", folder=place)
    found = json.loads(said.out)
    assert said.code == found["exit_code"] == 3
    assert said.err[-1] == f"edgekit: error: {found['error']}"


@pytest.mark.parametrize("offline", ["0", "1"])
def test_the_hub_out_of_reach_is_found_out_in_seconds(place: Path, offline: str) -> None:
    extra = {"HF_HUB_OFFLINE": offline, "HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(place / "empty")}
    for arguments in (("convert", "someone/no-model", "--scheme", "float32"), (*FINETUNE, "hub:someone/no-data")):
        started = time.perf_counter()
        said = edgekit(*arguments, "--quiet", folder=place, extra=extra)
        assert time.perf_counter() - started < 10
        assert said.code == 3
        assert len(said.err) == 1
        assert "hub cannot be reached" in said.err[0]


def test_a_full_disk_behind_stdout(place: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("needs /dev/full, which this system lacks")
    with Path("/dev/full").open("w") as full:
        done = subprocess.run([*PROGRAM, "completion", "bash"], stdout=full, stderr=subprocess.PIPE, env=environment(), check=False)
    assert done.returncode == 6
    assert len(done.stderr.splitlines()) == 1


@pytest.fixture
def previous(place: Path, tmp_path: Path) -> Path:
    """An output folder as an earlier run left it."""
    out = tmp_path / "out"
    out.mkdir()
    (out / "bert_float32.tflite").write_bytes(b"an earlier model")
    (out / "bert_float32.json").write_text("{}")
    return out


def _start(place: Path, out: Path) -> subprocess.Popen[str]:
    arguments = ("convert", "bert", "--scheme", "float32", "--max-length", "16", "--out", str(out), "--overwrite")
    process = subprocess.Popen(
        [*PROGRAM, *arguments],
        cwd=place,
        env=environment({"TMPDIR": str(out.parent)}),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    deadline = time.monotonic() + 30
    while not (children := psutil.Process(process.pid).children()) or not (out / ".edgekit.lock").exists():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert children
    return process


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -signal.SIGKILL)])
def test_stopped_in_the_middle(place: Path, previous: Path, contents: Contents, number: signal.Signals, code: int) -> None:
    before = contents(previous)
    with _start(place, previous) as process:
        children = psutil.Process(process.pid).children(recursive=True)
        os.killpg(process.pid, number)
        _, said = process.communicate(timeout=30)
    assert process.returncode == code
    assert not psutil.wait_procs(children, timeout=5)[1]
    after = contents(previous)
    assert {name: data for name, data in after.items() if name != ".edgekit.lock"} == before
    if number != signal.SIGKILL:
        assert [item.name for item in previous.parent.iterdir()] == ["out"]
    if number == signal.SIGINT:
        assert said.splitlines()[-1].startswith("edgekit: error: interrupted")


def test_interrupted_before_anything_was_published_leaves_no_folder(place: Path, tmp_path: Path) -> None:
    with _start(place, tmp_path / "new" / "out") as process:
        os.killpg(process.pid, signal.SIGINT)
        process.communicate(timeout=30)
    assert process.returncode == 130
    # The temporary folder is `new`, which it needs to the last.
    assert [*tmp_path.rglob("*")] == [tmp_path / "new"]


def test_two_runs_on_one_output(place: Path, previous: Path, contents: Contents) -> None:
    before = contents(previous)
    with _start(place, previous) as process:
        second = edgekit(
            "convert",
            "bert",
            "--scheme",
            "float32",
            "--max-length",
            "16",
            "--out",
            previous,
            "--overwrite",
            "--quiet",
            folder=place,
        )
        os.killpg(process.pid, signal.SIGINT)
        process.communicate(timeout=30)
    assert second.code == 6
    assert second.err == [f"edgekit: error: {previous}: another edgekit run is writing here; wait for it or choose another --out"]
    assert {name: data for name, data in contents(previous).items() if name != ".edgekit.lock"} == before
