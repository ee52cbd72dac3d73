"""The report of a folder of published files."""

import json
from pathlib import Path

from edgekit.measure.measurement import Measurement
from edgekit.system import artifacts
from edgekit.system.serial import plain
from edgekit.workflows.report import report as report_of


def _publish(folder: Path, model: str, scheme: str, reason: str = "") -> Path:
    file = folder / f"{model}_{scheme}.tflite"
    file.write_bytes(b"12345678TFL3")
    measured = {
        "measurement": plain(Measurement(str(file), 12, None, scheme)),
        "plan": {"reason": reason} if reason else None,
        "data": "9 rows of dev.tsv",
    }
    known = {"kind": "tflite", "path": file.name, "sha256": artifacts.sha256(file), "size_bytes": 12}
    manifest = {**known, "config": {"scheme": scheme}, "measured": measured}
    file.with_suffix(".json").write_text(json.dumps(manifest))
    return file


def test_files_of_one_model_are_compared_with_its_float32(tmp_path: Path) -> None:
    base = _publish(tmp_path, "a", "float32")
    _publish(tmp_path, "a", "dynamic", "weights in 8 bits")
    found = report_of(tmp_path)
    assert (found.model, found.reference) == ("a", str(base))
    assert found.notes == ("dynamic: weights in 8 bits",)


def test_files_of_several_models_are_not_compared_with_the_first(tmp_path: Path) -> None:
    for model in ("a", "b"):
        _publish(tmp_path, model, "float32")
        _publish(tmp_path, model, "dynamic", "weights in 8 bits")
    found = report_of(tmp_path)
    assert (found.model, found.reference) == ("a, b", "")
    assert found.notes == ("a_dynamic: weights in 8 bits", "b_dynamic: weights in 8 bits")


def test_a_file_whose_manifest_does_not_fit_is_told(tmp_path: Path) -> None:
    _publish(tmp_path, "a", "float32")
    _publish(tmp_path, "a", "dynamic").with_suffix(".json").write_text("{")
    _publish(tmp_path, "a", "int8").write_bytes(b"1234TFL3 and more")
    found = report_of(tmp_path)
    assert [Path(row.path).stem for row in found.rows] == ["a_float32"]
    assert [note.split(":")[0] for note in found.notes] == ["Left out a_dynamic.tflite", "Left out a_int8.tflite"]
