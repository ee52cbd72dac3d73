"""`edgekit advise`: a tiny model from end to end, folders that were measured before, prompts, and what it refuses."""

import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from edgekit.cli import main
from edgekit.cli.commands import advise as command
from edgekit.stages.quantize.plan import TRAINED
from edgekit.system.worker import Worker
from tests.commands import edgekit


def _write_network(path: Path) -> None:
    """A float32 .tflite of a small convolutional network with input `image` (8, 8, 3) and 4 classes."""
    import tensorflow as tf
    import tf_keras

    tf.random.set_seed(0)
    layers = tf_keras.layers
    inputs = layers.Input((8, 8, 3), batch_size=1, name="image")
    hidden = layers.Conv2D(64, 3, padding="same", activation="relu")(inputs)
    hidden = layers.GlobalAveragePooling2D()(layers.Conv2D(64, 3, activation="relu")(hidden))
    model = tf_keras.Model(inputs, layers.Dense(4)(hidden))
    path.write_bytes(tf.lite.TFLiteConverter.from_keras_model(model).convert())


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("advise") / "network.tflite"
    Worker(timeout_s=120, env={"TF_USE_LEGACY_KERAS": "1"}).run(_write_network, path)
    return path


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("advise") / "rows.npz"
    draw = np.random.default_rng(0)
    np.savez(path, image=draw.standard_normal((120, 8, 8, 3)).astype(np.float32), label=draw.integers(0, 4, 120))
    return path


@pytest.fixture(scope="module")
def made(network: Path, rows: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Result, Path]:
    """The network advised for a microcontroller, its files kept."""
    out = tmp_path_factory.mktemp("advise") / "out"
    said = run(
        network,
        *("--target", "microcontroller", "--data", rows, "--max-drop", "0.2", "--flash", "1000000", "--json"),
        *("--out", out, "--report", out.parent / "page.html"),
    )
    return said, out


def figures(scheme: str, size: int, p50: float, lost: int = 0, total: int = 500) -> dict[str, Any]:
    def share(value: float) -> dict[str, Any]:
        return {"count": round(value * total), "total": total, "value": value, "low": value - 0.01, "high": min(value + 0.01, 1)}

    value = lost / total
    drop = {"lost": lost, "gained": 0, "total": total, "value": value, "low": value - 0.01, "high": value + 0.01}
    return {
        "path": "",
        "size_bytes": size,
        "gzip_bytes": None,
        "scheme": scheme,
        "latency": {"runs": 30, "warmup": 5, "mean_ms": p50, "p50_ms": p50, "p90_ms": p50, "p99_ms": p50, "min_ms": p50},
        "task": "tabular-classification",
        "metric": {"metric": "accuracy", **share(0.9 - value), "percent": True},
        "agreement": share(1 - value),
        "drop": None if scheme == "float32" else drop,
        "partitions": 1,
        "delegated_ops": 9,
        "ops": 10,
    }


def publish(
    folder: Path, scheme: str, size: int, p50: float, lost: int = 0, *, refused: str = "", data: bool = True, made_by: str = ""
) -> Path:
    """A file that only its manifest tells anything of, as convert would have left it."""
    folder.mkdir(exist_ok=True)
    file = folder / f"net_{scheme}.tflite{'.rejected' if refused else ''}"
    file.write_bytes(bytes(size))
    manifest = {
        "kind": "tflite",
        "path": file.name,
        "sha256": hashlib.sha256(bytes(size)).hexdigest(),
        "size_bytes": size,
        "parents": {"/models/net.onnx": "0"},
        "config": {"scheme": scheme, "max_drop": 0.05, "mean": [1, 2.5]} | ({"data": "/data/train rows"} if data else {}),
        "measured": {
            "measurement": figures(scheme, size, p50, lost) | ({} if data else {"metric": None}),
            "plan": {"made_by": made_by},
            "data": "500 rows of dev" if data else "16 random rows (no data given)",
        }
        | ({"refused": refused} if refused else {}),
    }
    beside = file.with_name(f"{file.name}.json") if refused else file.with_suffix(".json")
    beside.write_text(json.dumps(manifest), encoding="utf-8")
    return file


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for scheme, size, p50 in (("float32", 4000, 4.0), ("float16", 2000, 4.1), ("dynamic", 1000, 1.0), ("int8", 1010, 0.98)):
        publish(tmp_path / "files", scheme, size, p50)
    return tmp_path / "files"


def run(*arguments: str | Path, answers: str = "") -> Result:
    return CliRunner().invoke(main.cli, ["advise", *map(str, arguments), "--quiet"], input=answers)


def test_a_model_is_converted_measured_and_advised(made: tuple[Result, Path]) -> None:
    said, out = made
    assert said.exit_code == 0, said.output
    found = json.loads(said.stdout)
    assert found["recommendation"]["leaf"] == "int8 integer-only"
    taken = found["recommendation"]["candidate"]
    assert (taken["fit"]["float_ops"], taken["fit"]["obstacles"]) == (0, [])
    assert taken["measurement"]["drop"]["total"] == 120  # too few rows to hold any back from calibration
    assert {(c["scheme"], c["integer_only"]) for c in found["candidates"]} == {
        *((scheme, False) for scheme in ("float32", "float16", "dynamic", "int8", "int16x8")),
        ("int8", True),
    }
    assert (out / "integer_only" / "network_int8.tflite").is_file()
    assert "--integer-only --inputs int8 --outputs int8" in found["next"][1]
    assert found["question"]["data"] == "labelled"


def test_its_folder_gives_the_same_answer_without_converting(made: tuple[Result, Path]) -> None:
    _, out = made
    before = {file: file.stat().st_mtime_ns for file in out.rglob("*.tflite")}
    said = run(out, "--target", "microcontroller", "--max-drop", "0.2")
    assert said.exit_code == 0, said.output
    assert "take int8 integer-only" in said.output
    assert "Timed in another run than float32" in " ".join(said.output.split())
    assert {file: file.stat().st_mtime_ns for file in out.rglob("*.tflite")} == before
    shrink = run(out, "--target", "microcontroller", "--max-drop", "0.2", "--ram", "1")
    assert shrink.exit_code == 4
    assert "of 1 bytes RAM" in shrink.output


def test_the_page_stands_alone(made: tuple[Result, Path]) -> None:
    page = (made[1].parent / "page.html").read_text(encoding="utf-8")
    assert "take int8 integer-only" in page
    assert "<svg" in page
    assert "max-width: 1232px" in page
    assert not re.search(r"<script|<link|<img|@import|url\((?!#)", page)


def test_without_data_nothing_that_calibrates_is_tried(network: Path) -> None:
    said = edgekit("advise", network, "--json")
    assert said.code == 0, said.err
    found = json.loads(said.out)
    assert {item["scheme"] for item in found["candidates"]} == {"float32", "float16", "dynamic"}
    assert {item["name"]: item["verdict"] for item in found["recommendation"]["passed"]}["int8"] == "needs data"
    assert any(line.startswith("data: none") for line in found["assumed"])
    rows = {row["path"] for row in found["report"]["rows"]}
    assert {item["measurement"]["path"] for item in found["candidates"]} == rows
    assert rows == {f"{network.stem}_{scheme}.tflite" for scheme in ("float32", "float16", "dynamic")}
    assert found["report"]["reference"] in rows
    assert "edgekit-advise-" not in said.out
    assert "what it loses was not judged" in found["recommendation"]["reason"] or found["recommendation"]["leaf"] == "float32"


def test_measured_files_are_taken_as_they_are(folder: Path) -> None:
    said = run(folder)
    assert said.exit_code == 0, said.output
    text = " ".join(said.output.split())
    assert "net on a CPU (XNNPACK): take dynamic" in text
    assert "int8 (needs data): within 10% in p50" in text
    assert "target: cpu (--target)" in text
    assert "need: latency (--need)" in text
    assert "edgekit convert /models/net.onnx --scheme dynamic --representative-data '/data/train rows' --mean 1,2.5" in text


def test_rows_to_judge_on_alone_count(network: Path, rows: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", image=np.load(rows)["image"])
    found = json.loads(
        run(
            network, "--evaluation-data", tmp_path / "x.npz", "--task", "tabular-classification", "--max-drop", "0", "--json"
        ).output
    )
    assert found["question"]["data"] == "none"
    assert "judged on 120 rows of " in found["recommendation"]["path"][1]["decided_by"]
    assert not any("kept as" in (candidate["refused"] or "") for candidate in found["candidates"])
    taken = found["recommendation"]["candidate"]
    assert (taken["refused"], taken["measurement"]["agreement"]["value"]) == (None, 1.0)


def test_random_rows_judge_nothing(tmp_path: Path) -> None:
    for scheme, p50 in (("float32", 4.0), ("dynamic", 1.0)):
        publish(tmp_path / "files", scheme, 1000, p50, 450 if scheme == "dynamic" else 0, data=False)
    found = json.loads(run(tmp_path / "files", "--json").output)
    assert found["recommendation"]["leaf"] == "dynamic"
    assert "what it loses was not judged" in found["recommendation"]["reason"]


def test_an_int8_file_of_trained_ranges_needs_no_data_and_no_gpu(tmp_path: Path) -> None:
    publish(tmp_path / "files", "int8", 1010, 0.98, data=False, made_by=TRAINED)
    found = json.loads(run(tmp_path / "files", "--json").output)
    assert found["recommendation"]["leaf"] == "int8"
    assert not any("rows.tsv" in line for line in found["next"])
    on_gpu = run(tmp_path / "files", "--target", "gpu")
    assert on_gpu.exit_code == 4
    assert "--scheme float16" in on_gpu.output.splitlines()[-1]
    integers = run(tmp_path / "files", "--target", "edgetpu")
    assert integers.exit_code == 4
    assert "--integer-only" not in integers.output


@pytest.mark.parametrize(
    "option",
    [
        ("--out", "x"),
        ("--evaluation-data", "d.npz"),
        ("--mean", "1"),
        ("--std", "2"),
        ("--threads", "2"),
        ("--max-length", "64"),
        ("--input-shape", "x=1"),
    ],
)
def test_what_is_said_of_a_conversion_is_not_for_files_that_are_there(folder: Path, option: tuple[str, str]) -> None:
    said = edgekit("advise", folder, *option)
    assert said.code == 2
    assert f"leave {option[0]} out" in said.err[0]


def test_what_was_rejected_is_told_with_its_figures(folder: Path) -> None:
    publish(folder, "int16x8", 1500, 9.0, 45, refused="loses 9.0 points")
    found = json.loads(run(folder, "--json").output)
    (told,) = [item for item in found["recommendation"]["passed"] if item["name"] == "int16x8"]
    assert told["verdict"] == "loses"
    assert "loses 9.0 points of accuracy (8.0 to 10.0" in told["why"]


def test_figures_of_a_later_run_go_before_the_manifests(folder: Path) -> None:
    from edgekit.report.content import Report, measurement

    later = {"float32": (4000, 4.0), "float16": (2000, 4.0), "dynamic": (1000, 8.0), "int8": (1010, 0.98)}
    taken = tuple(
        measurement(figures(scheme, *found) | {"path": f"elsewhere/net_{scheme}.tflite"}) for scheme, found in later.items()
    )
    (folder / "report.json").write_text(Report("", "", "872 rows of dev", "a machine", {}, taken).json())
    found = json.loads(run(folder, "--json").output)
    assert found["recommendation"]["leaf"] == "int8"
    assert found["report"]["machine"] == "a machine"


def test_it_asks_where_somebody_is_there_to_answer(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "asks", lambda: True)
    said = run(folder, answers="gpu\nsize\n0.02\n")
    assert said.exit_code == 0, said.output
    assert "What will run it?" in said.output
    assert "Data to calibrate" not in said.output
    assert "net on a GPU (OpenCL, OpenGL ES or Metal): take float16" in " ".join(said.output.split())
    assert "Assumed" not in said.output
    assert "What is needed most?" not in run(folder, "--target", "cpu", "--need", "size", "--max-drop", "0.1").output
    assert json.loads(run(folder, "--json").output)["question"]["hardware"] == "cpu"


def test_an_accelerator_without_a_file_for_it_ends_with_what_to_try(folder: Path) -> None:
    said = run(folder, "--target", "edgetpu")
    assert said.exit_code == 4
    assert "--integer-only" in said.output.splitlines()[-1]


def _nothing(folder: Path) -> None:
    for file in folder.iterdir():
        file.unlink()
    (folder / "stranger.tflite").write_bytes(b"TFL3")


def _damaged(folder: Path) -> None:
    for file in folder.glob("*.json"):
        file.write_text(file.read_text()[:100])


def _two_models(folder: Path) -> None:
    publish(folder, "int8", 1010, 1.0).rename(folder / "other_int8.tflite")
    text = (folder / "net_int8.json").read_text().replace("net_int8", "other_int8")
    (folder / "net_int8.json").rename(folder / "other_int8.json")
    (folder / "other_int8.json").write_text(text)


def _bad_figure(folder: Path) -> None:
    file = folder / "net_int8.json"
    file.write_text(file.read_text().replace('"p50_ms": 0.98', '"p50_ms": "fast"'))


@pytest.mark.parametrize(
    ("harm", "told"),
    [
        (_nothing, "no manifest that edgekit wrote"),
        (_damaged, "no manifest that edgekit wrote"),
        (_two_models, "files of 2 models"),
        (_bad_figure, "its figures cannot be read"),
    ],
)
def test_a_broken_folder_is_named(folder: Path, harm: Callable[[Path], None], told: str) -> None:
    harm(folder)
    said = edgekit("advise", folder, "--quiet")
    assert (said.code, said.out, len(said.err)) == (3, "", 1)
    assert told in said.err[0]


def test_everything_refused_says_what_to_try(tmp_path: Path) -> None:
    folder = tmp_path / "files"
    file = publish(folder, "float32", 4000, 1.0, refused="stops at its first inference")
    beside = file.with_name(f"{file.name}.json")
    stored = json.loads(beside.read_text())
    stored["measured"]["measurement"] |= {"latency": None, "failure": "stops at its first inference"}
    beside.write_text(json.dumps(stored))
    said = edgekit("advise", folder, "--quiet")
    assert (said.code, said.out) == (4, "")
    assert "float32: stops at its first inference" in said.err[0]
    assert "convert float32 alone" in said.err[0]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--need", "accelerator", "--target", "cpu"), "give the accelerator as --target"),
        (("--flash", "1000"), "are a microcontroller's"),
        (("--report", "page.pdf"), "end the name with .html"),
    ],
)
def test_options_that_do_not_fit_together(folder: Path, arguments: tuple[str, ...], told: str) -> None:
    said = edgekit("advise", folder, *arguments, "--quiet")
    assert said.code == 2
    assert told in said.err[0]
