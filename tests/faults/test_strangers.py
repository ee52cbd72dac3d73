"""Files from strangers: what they hold is not run, what they cost is bounded, and what lies beside them stays."""

import contextlib
import io
import json
import os
import shutil
import signal
import struct
import subprocess
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgekit.cli.main import main
from edgekit.data.images import read_image
from edgekit.errors import DatasetError
from edgekit.system import artifacts, rooms
from edgekit.system.worker import Worker
from tests.commands import PROGRAM, Said, edgekit, environment
from tests.faults import attacks
from tests.unit import classifiers
from tests.unit.workflows.test_predict import packed, repacked

Contents = Callable[[Path], dict[str, bytes]]

CONVERT = ("convert", "--out", "new/out", "--scheme", "float32")


def refused(said: Said, code: int, *words: str) -> None:
    """One line with the file, the cause and the remedy, and the code of its class."""
    assert said.code == code, said
    assert len(said.err) == 1, said.err
    assert said.err[0].startswith("edgekit: error: ")
    assert "unforeseen" not in said.err[0]
    assert ";" in said.err[0]
    for word in words:
        assert word in said.err[0]


@pytest.fixture
def room(tiny_bert: Path, tiny_tsv: Path, tmp_path: Path) -> Path:
    """A folder with a sound checkpoint, rows, and a place for temporary files."""
    (tmp_path / "tmp").mkdir()
    shutil.copytree(tiny_bert, tmp_path / "bert")
    shutil.copyfile(tiny_tsv, tmp_path / "good.tsv")
    return tmp_path


def run(room: Path, *arguments: str | Path) -> Said:
    """A command in this process, which has imported already what it imports; nothing of it is left in the run's rooms."""
    before, out, err = set(rooms.rooms().iterdir()), io.StringIO(), io.StringIO()
    with (
        contextlib.chdir(room),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        pytest.raises(SystemExit) as ended,
    ):
        main([*map(str, arguments), "--quiet"])
    assert set(rooms.rooms().iterdir()) == before
    return Said(int(ended.value.code or 0), out.getvalue(), err.getvalue().splitlines())


def run_apart(room: Path, *arguments: str | Path) -> Said:
    """A command in a process of its own, after which the next run finds nothing in the place for temporary files."""
    said = edgekit(*arguments, "--quiet", folder=room, extra={"TMPDIR": str(room / "tmp")})
    for left in [left for root in (room / "tmp").glob("edgekit-*") for left in root.iterdir()]:
        rooms._sweep(left)
        assert not left.exists()
    return said


@pytest.mark.parametrize(
    ("symbol", "arguments"),
    [
        ("load_op_library", {"library_filename": "{}"}),
        ("io.write_file", {"filename": "{}", "contents": "x"}),
        ("io.gfile.rmtree", {"path": "{}"}),
        ("py_function", {"func": "{}"}),
    ],
)
def test_a_layer_that_calls_whatever_it_names_is_not_loaded(room: Path, symbol: str, arguments: dict[str, str]) -> None:
    canary = room / "canary"
    canary.mkdir()
    (canary / "work").write_text("mine")
    attacks.write_keras(room / "model.h5", symbol, {name: value.format(canary) for name, value in arguments.items()})
    refused(run(room, *CONVERT, "model.h5"), 3, "model.h5", symbol, "does not load it")
    assert (canary / "work").read_text() == "mine"


def test_a_saved_model_that_writes_files_is_not_loaded(room: Path) -> None:
    left = room / "left"
    Worker().run(attacks.write_saved_model, room / "saved", left)
    refused(run(room, *CONVERT, "saved"), 3, "saved", "WriteFile")
    assert not left.exists()


def test_torchscript_without_a_manifest_that_vouches_for_it_is_not_run(room: Path) -> None:
    victim = room / "victim"
    victim.write_text("mine, all of it")
    Worker().run(attacks.write_torchscript, room / "model.pt", victim)
    refused(run(room, "compare", "bert", "model.pt", "--dataset", "good.tsv"), 3, "model.pt", "edgekit export")
    assert victim.read_text() == "mine, all of it"


def test_postscript_is_no_image(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n{} loop\n%%EOF\n")
    with pytest.raises(DatasetError, match=r"a\.png: not a readable image"):
        read_image(tmp_path / "a.png", 4, 4, 3, crop=True)


def test_an_image_that_unpacks_to_a_gigabyte_is_not_unpacked(tmp_path: Path) -> None:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    rows = zlib.compress(bytes(13_000 // 8 + 1) * 13_000, 9)
    header = struct.pack(">IIBBBBB", 13_000, 13_000, 1, 0, 0, 0, 0)
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b""))
    with pytest.raises(DatasetError, match="13000 x 13000 pixels"):
        read_image(tmp_path / "a.png", 4, 4, 3, crop=True)


@pytest.mark.parametrize(
    "command",
    [
        ("export", "bert", "--format", "pruned", "--out", "mine"),
        ("prune", "bert", "--heads", "0.5", "--dataset", "good.tsv", "--out", "mine"),
        ("finetune", "--model", "bert", "--dataset", "good.tsv", "--epochs", "1", "--out", "mine"),
        ("bundle", "model.tflite", "--out", "mine"),
    ],
    ids=lambda command: command[0],
)
def test_a_folder_with_somebodys_work_is_not_replaced(room: Path, contents: Contents, command: tuple[str, ...]) -> None:
    (room / "model.tflite").write_bytes(classifiers.text_classifier())
    if command[0] == "export":
        command = ("export", "bert", "--format", "saved-model", "--out", "mine")
    mine = room / "mine"
    mine.mkdir()
    (mine / "thesis.txt").write_text("three years")
    before = contents(mine)
    refused(run(room, *command, "--overwrite"), 6, "mine: holds thesis.txt", "choose another --out")
    assert contents(mine) == before


@pytest.mark.parametrize(
    "command", [("prune", "deep/bert", "--heads", "0.5", "--dataset", "good.tsv"), ("bundle", "deep/model.tflite")]
)
def test_what_holds_the_source_is_not_replaced(room: Path, contents: Contents, command: tuple[str, ...]) -> None:
    (room / "deep").mkdir()
    shutil.move(room / "bert", room / "deep" / "bert")
    (room / "deep" / "model.tflite").write_bytes(classifiers.text_classifier())
    before = contents(room / "deep")
    refused(run(room, *command, "--out", "deep", "--overwrite"), 6, "deep: holds", "choose another --out")
    assert contents(room / "deep") == before


@pytest.mark.parametrize(
    "command",
    [
        ("benchmark",),
        ("convert", "--scheme", "float16", "--out", "new"),
        ("evaluate", "--dataset", "x.npz"),
        ("bundle", "--out", "bundled"),
        ("diagnose", "--against"),
    ],
    ids=lambda command: command[0],
)
def test_a_file_that_never_answers_is_stopped(room: Path, command: tuple[str, ...]) -> None:
    (room / "model.tflite").write_bytes(attacks.endless(1, 4))
    np.savez(room / "x.npz", x=np.ones((4, 4), np.float32))
    if command[0] == "diagnose":
        (room / "other.tflite").write_bytes(attacks.endless(1, 4))
        command = ("diagnose", "--against", "other.tflite", "--data", "x.npz")
    started = time.monotonic()
    said = run(room, command[0], "model.tflite", *command[1:], "--timeout", "2")
    assert time.monotonic() - started < 10
    refused(said, 4 if command[0] in ("benchmark", "evaluate") else 5, "model.tflite", "after the limit of 2 s", "--timeout")
    assert not (room / "bundled").exists()
    assert not (room / "new").exists()


def test_predict_is_stopped_as_well(room: Path) -> None:
    (room / "model.tflite").write_bytes(attacks.endless(1, 4, 4, 3))
    Image.new("RGB", (4, 4)).save(room / "a.png")
    refused(
        run_apart(room, "predict", "model.tflite", "a.png", "--timeout", "1"),
        5,
        "model.tflite",
        "after the limit of 1 s",
        "--timeout",
    )


def test_a_file_that_takes_all_memory_is_stopped(room: Path) -> None:
    (room / "model.tflite").write_bytes(attacks.greedy())
    said = run(room, "bundle", "model.tflite", "--out", "bundled", "--memory-limit", "0.5")
    refused(said, 5, "model.tflite", "0.5 GiB", "--memory-limit")


def test_an_archive_that_unpacks_to_gigabytes_is_not_unpacked(room: Path) -> None:
    (room / "model.tflite").write_bytes(attacks.endless(1, 4))
    attacks.write_bomb(room / "x.npz")
    refused(run(room, "evaluate", "model.tflite", "--dataset", "x.npz", "--limit", "0"), 3, "x.npz", "unpacks to")


CONFIGS: list[tuple[str, str, str]] = [
    ("config.json", '{"model_type": "bert", "num_hidden_layers": 1000000000}', "num_hidden_layers"),
    ("config.json", '{"model_type": "bert", "id2label": 5}', "id2label"),
    ("config.json", '{"model_type": "bert", "id2label": ["a", "b"]}', "id2label"),
    ("config.json", '["bert"]', "model_type"),
    ("config.json", attacks.deep(), "nested too deeply"),
    ("tokenizer.json", attacks.deep(), "tokenizer.json"),
    ("tokenizer.json", "[]", "tokenizer.json"),
    ("tokenizer_config.json", attacks.deep(), "tokenizer_config.json"),
    ("tokenizer_config.json", "[]", "tokenizer_config.json"),
]


@pytest.mark.parametrize(("name", "content", "word"), CONFIGS, ids=[f"{case[0]} {case[2]} {case[1][:12]}" for case in CONFIGS])
def test_a_checkpoint_that_is_not_what_it_should_be(room: Path, name: str, content: str, word: str) -> None:
    (room / "bert" / name).write_text(content)
    started = time.monotonic()
    refused(run(room, *CONVERT, "bert", "--max-length", "16"), 3, word)
    assert time.monotonic() - started < 10


def test_what_tokenizers_panics_at_is_one_line(room: Path) -> None:
    normalizer = {"type": "Precompiled", "precompiled_charsmap": "////////////////"}
    attacks.changed(room / "bert" / "tokenizer.json", {"normalizer": normalizer})
    refused(run(room, *CONVERT, "bert", "--max-length", "16"), 3, "tokenizer.json")


def test_a_tokenizer_in_a_file_is_known_by_that_file(room: Path) -> None:
    sound = packed(room / "bert", room / "sound")
    file = repacked(sound, room / "model.tflite", {"tokenizer.json": b'{"model": 5}'})
    for command in ("evaluate", "benchmark"):
        refused(run(room, command, file, "--dataset", "good.tsv"), 3, "model.tflite", "tokenizer.json is damaged")


def test_token_ids_beyond_what_an_input_holds(room: Path) -> None:
    content = json.loads((room / "bert" / "tokenizer.json").read_text())
    content["post_processor"]["special_tokens"]["[CLS]"]["ids"] = [2**31]
    (room / "bert" / "tokenizer.json").write_text(json.dumps(content))
    said = run(room, "convert", "bert", "--scheme", "int8", "--out", "new", "--representative-data", "good.tsv")
    refused(said, 3, "tokenizer.json", "out of bounds")


def test_a_recipe_whose_keys_have_too_many_parts(room: Path) -> None:
    (room / "run.toml").write_text("a." * 100_000 + "a = 1")
    started = time.monotonic()
    refused(run(room, "run", "run.toml"), 2, "run.toml", "1000 dots")
    assert time.monotonic() - started < 10


DATA: list[tuple[str, bytes, str]] = [
    ("deep.jsonl", attacks.deep().encode(), "nested too deeply"),
    ("deep.json", attacks.deep().encode(), "nested too deeply"),
    ("long.tsv", b"sentence\tlabel\n" + b"x" * 20_000_000 + b"\t1\n", "20,000,000 characters"),
    ("odd.npz", b"PK\x05\x06" + bytes(18), "odd.npz"),
    ("odd.parquet", b"PAR1" + bytes(100) + b"PAR1", "odd.parquet"),
]


@pytest.mark.parametrize(("name", "content", "word"), DATA, ids=[case[0] for case in DATA])
def test_data_that_is_not_what_it_should_be(room: Path, name: str, content: bytes, word: str) -> None:
    (room / name).write_bytes(content)
    started = time.monotonic()
    refused(run(room, "convert", "bert", "--scheme", "int8", "--out", "new", "--representative-data", name), 3, name, word)
    assert time.monotonic() - started < 10


@pytest.mark.parametrize(
    "header", [b"{'descr': '<f4', 'fortran_order': False, 'shape': (2, -3)}", b"{'descr': [('a', '<f4')]}", b"()", b"\xff"]
)
def test_an_odd_header_in_an_archive(room: Path, header: bytes) -> None:
    import zipfile

    (room / "model.tflite").write_bytes(attacks.endless(1, 4))
    padded = header + b" " * (117 - len(header)) + b"\n"
    with zipfile.ZipFile(room / "x.npz", "w") as archive:
        archive.writestr("x.npy", b"\x93NUMPY\x01\x00" + struct.pack("<H", len(padded)) + padded + bytes(64))
    refused(run(room, "evaluate", "model.tflite", "--dataset", "x.npz"), 3, "x.npz")


@pytest.mark.parametrize(
    "command",
    [
        ("inspect", "pipe.tflite"),
        ("inspect", "pipe.onnx"),
        ("inspect", "pipe.h5"),
        ("predict", "pipe.tflite", "text"),
        (*CONVERT, "pipe.onnx"),
        ("run", "pipe.toml"),
        ("convert", "bert", "--scheme", "int8", "--out", "new", "--representative-data", "pipe.tsv"),
        ("convert", "bert", "--scheme", "int8", "--out", "new", "--representative-data", "good.tsv", "--plan", "pipe.json"),
        ("report", "beside", "--out", "report.md"),
    ],
    ids=lambda command: " ".join(command)[:60],
)
def test_a_pipe_is_not_waited_for(room: Path, command: tuple[str, ...]) -> None:
    for name in ("pipe.tflite", "pipe.onnx", "pipe.h5", "pipe.toml", "pipe.tsv", "pipe.npz", "pipe.json"):
        os.mkfifo(room / name)
    (room / "beside").mkdir()
    os.mkfifo(room / "beside" / "model.json")
    (room / "beside" / "model.tflite").write_bytes(classifiers.text_classifier())
    started = time.monotonic()
    said = (run_apart if command[0] == "predict" else run)(room, *command)
    assert time.monotonic() - started < 10
    refused(said, 2 if command[0] == "run" or "--plan" in command else 3)


def test_deep_recipes_and_plans(room: Path) -> None:
    (room / "deep.toml").write_text(f"a = {attacks.deep()}\n")
    refused(run(room, "run", "deep.toml"), 2, "deep.toml", "not valid TOML")
    (room / "plan.json").write_text(attacks.deep())
    plan = ("convert", "bert", "--scheme", "int8", "--out", "new", "--representative-data", "good.tsv", "--plan", "plan.json")
    refused(run(room, *plan), 2, "plan.json")


def test_a_file_that_was_cut_by_its_last_byte_is_damaged(room: Path) -> None:
    content = classifiers.text_classifier()
    for end, missing in ((b"", 1), (_archive(), 1), (_archive(), 5)):
        (room / "model.tflite").write_bytes((content + end)[:-missing])
        refused(run(room, "inspect", "model.tflite"), 3, "model.tflite: damaged")
        (room / "model.tflite").write_bytes(content + end)
        assert run(room, "inspect", "model.tflite").code == 0


def _archive() -> bytes:
    import io
    import zipfile

    held = io.BytesIO()
    with zipfile.ZipFile(held, "w") as archive:
        archive.writestr("labels.txt", "a\nb\nc")
    return held.getvalue()


def test_a_model_with_scalar_inputs_runs(room: Path) -> None:
    import onnx
    from onnx import TensorProto, helper

    shapes = {"x": [1, 4], "low": [], "high": []}
    inputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()]
    clip = helper.make_node("Clip", ["x", "low", "high"], ["y"])
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4])]
    model = helper.make_model(helper.make_graph([clip], "clips", inputs, outputs), opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    onnx.save(model, room / "clips.onnx")
    said = run(room, "benchmark", "clips.onnx", "--runs", "3")
    assert said.code == 0, said


def test_labels_that_lie_elsewhere_are_not_read(room: Path) -> None:
    (room / "model.tflite").write_bytes(classifiers.image_classifier())
    (room / "images").mkdir()
    (room / "images" / "labels.tsv").write_text(f"file\tlabel\n../good.tsv\t0\n{room}/good.tsv\t1\n")
    refused(run(room, "evaluate", "model.tflite", "--dataset", "images"), 3, "labels.tsv", "../good.tsv")


def test_names_do_not_reach_the_terminal_as_commands(room: Path) -> None:
    name = "a\x1b[2J\x07\u202e.tflite"
    (room / name).write_bytes(classifiers.text_classifier())
    said = run(room, "inspect", name)
    assert said.code == 0
    assert not {"\x1b", "\x07", "\u202e"} & set(said.out)
    assert "\\x1b[2J" in said.out


def test_a_name_is_no_html_in_a_bundle(room: Path) -> None:
    name = "<img src=x onerror=alert(1)>`.tflite"
    (room / name).write_bytes(classifiers.text_classifier())
    said = run(room, "bundle", name, "--out", "bundled")
    assert said.code == 0, said
    assert "<img" not in (room / "bundled" / "README.md").read_text()


def test_a_manifest_does_not_tell_where_it_was_made_and_is_of_no_other_file(room: Path) -> None:
    said = run(room, "convert", str(room / "bert"), "--scheme", "float32", "--max-length", "16", "--out", str(room / "new"))
    assert said.code == 0, said
    manifest = (room / "new" / "bert_float32.json").read_text()
    assert str(room) not in manifest
    assert str(Path.home()) not in manifest
    stored = json.loads(manifest)
    assert [*stored["parents"]] == ["bert"]
    assert stored["measured"]["measurement"]["path"].endswith("bert_float32.tflite")
    file = room / "new" / "bert_float32.tflite"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    refused(run(room, "report", "new", "--out", "report.md"), 3, "new")


def test_names_that_are_not_utf_8(room: Path) -> None:
    named = os.fsdecode(os.fsencode(room) + b"/b\xff")
    shutil.copytree(room / "bert", named)
    refused(run(room, *CONVERT, named), 3, "is not UTF-8", "rename it")
    said = run(room, "export", "bert", "--format", "onnx", "--max-length", "16", "--out", f"{named}/model.onnx")
    assert said.code == 0, said
    assert artifacts.sha256(Path(named) / "model.onnx") in (Path(named) / "model.onnx.json").read_text()


def test_a_full_place_for_temporary_files_is_named(room: Path) -> None:
    script = (
        f"mount -t tmpfs -o size=16k none {room}/tmp && exec {' '.join(PROGRAM)} convert bert --scheme float32 --out new --quiet"
    )
    if subprocess.run(["unshare", "-rm", "mount", "-t", "tmpfs", "none", str(room / "tmp")], capture_output=True).returncode:
        pytest.skip("needs a file system of its own, which this system does not allow")
    done = subprocess.run(
        ["unshare", "-rm", "sh", "-c", script],
        cwd=room,
        env=environment({"TMPDIR": str(room / "tmp")}),
        capture_output=True,
        text=True,
    )
    refused(Said(done.returncode, done.stdout, done.stderr.splitlines()), 6, str(room / "tmp"), "No space left", "TMPDIR")


def test_nan_weights_and_constant_rows_name_the_model(room: Path) -> None:
    from safetensors.numpy import load_file, save_file

    weights = load_file(room / "bert" / "model.safetensors")
    name = next(name for name in weights if name.endswith("output.dense.weight"))
    weights[name] = np.full_like(weights[name], np.nan)
    save_file(weights, room / "bert" / "model.safetensors", {"format": "pt"})
    refused(run(room, *CONVERT, "bert", "--max-length", "16"), 3, "model.safetensors", name)


def test_external_data_beyond_2_gb_names_the_model(room: Path) -> None:
    import onnx
    from onnx import TensorProto, helper

    weight = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[4, 2**27 + 2**24], data_location=TensorProto.EXTERNAL)
    weight.external_data.add(key="location", value="weights.bin")
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 2**27 + 2**24])
    graph = helper.make_graph([node], "large", [x], [y], [weight])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]), room / "large.onnx")
    with (room / "weights.bin").open("wb") as stream:
        stream.truncate(16 * (2**27 + 2**24))
    started = time.monotonic()
    said = run(room, *CONVERT, "large.onnx")
    refused(said, 4, "large.onnx", "GB with its weights")
    assert time.monotonic() - started < 30


def test_ctrl_c_for_the_parent_alone_ends_the_demo(room: Path) -> None:
    for name in ("core", "wasm-utils"):
        (room / "js" / name / "dist").mkdir(parents=True)
        (room / "js" / name / "dist" / "index.js").touch()
    (room / "js" / "core" / "wasm").mkdir()
    file = packed(room / "bert", room / "demo")
    process = subprocess.Popen(
        [*PROGRAM, "demo", str(file), "--litertjs", "js"], cwd=room, env=environment(), stdout=-1, stderr=-1, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline().startswith("http://127.0.0.1:")
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=10)[1].splitlines()
    assert process.returncode == 130
    assert "interrupted" in said[-1]


@pytest.mark.parametrize("after", [0.05, 0.2, 0.6])
def test_ctrl_c_in_the_first_moments_is_one_line(room: Path, after: float) -> None:
    process = subprocess.Popen(
        [*PROGRAM, *CONVERT, "bert"], cwd=room, env=environment({"TMPDIR": str(room / "tmp")}), stderr=subprocess.PIPE, text=True
    )
    ready = Path(f"/proc/{process.pid}/status")
    # Until Python has its own handler for it, the system ends a process without a word.
    deadline = time.monotonic() + 10
    while not int(ready.read_text().split("SigCgt:")[1].split()[0], 16) & 1 << signal.SIGINT - 1 and time.monotonic() < deadline:
        time.sleep(0.001)
    time.sleep(0.03 + after)
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=20)[1].splitlines()
    # Python ends itself by the signal where the interrupt fell into an `exec`, as in a module of namedtuples.
    assert process.returncode in (130, -signal.SIGINT)
    assert [line for line in said if "error" in line] == said[-1:]
    assert "interrupted" in said[-1]
    assert not any("Traceback" in line for line in said)
