import json
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest

from edgekit.errors import EdgekitError, ModelFormatError
from edgekit.system.serial import to_json
from edgekit.tflite.inspect import Delegation, Summary, describe, inspect


def test_float_file(dense, write):
    summary = inspect(write(dense))
    assert [str(group) for group in summary.op_groups] == ["FULLY_CONNECTED float32 -> float32: 1"]
    assert summary.data_bytes == 60
    assert [(item.name, item.data_bytes) for item in summary.largest_tensors] == [("weights", 48), ("bias", 12)]
    assert summary.delegation == Delegation(partitions=1, delegated_ops=1, ops=1)
    assert summary.signatures["run"].inputs[0].shape == (-1, 4)
    assert not summary.integer_only
    assert summary.probe_failure is None
    assert len(summary.sha256) == 64


def test_integer_file(add_int8, write):
    summary = inspect(write(add_int8), probe=False)
    assert summary.integer_only
    assert summary.quantization.per_tensor == 3
    spec = summary.signature.inputs[0]
    assert (spec.name, spec.dtype, spec.scale, spec.zero_point) == ("a", "int8", 0.5, 3)
    assert summary.delegation is None
    assert summary.probe_failure is None


def test_one_float_tensor_makes_it_no_integer_file(builder, write):
    x = builder.tensor("x", [4], "int8", scale=[0.5])
    y = builder.tensor("y", [4])
    builder.op("DEQUANTIZE", [x], [y])
    builder.ends({"x": x}, {"y": y})
    assert not inspect(write(builder.pack()), probe=False).integer_only


def test_no_ops_is_no_integer_file(builder, write):
    assert not inspect(write(builder.pack()), probe=False).integer_only


def test_hybrid_op_shows_weight_dtype_and_hides_its_bias(builder, write):
    x, y = builder.tensor("x", [1, 4]), builder.tensor("y", [1, 3])
    weights = builder.tensor("w", [3, 4], "int8", data=np.ones((3, 4), np.int8), scale=[0.1, 0.2, 0.3])
    bias = builder.tensor("b", [3], "int32", data=np.ones(3, np.int32))
    for _ in range(2):
        builder.op("FULLY_CONNECTED", [x, weights, bias], [y])
    builder.ends({"x": x}, {"y": y})
    summary = inspect(write(builder.pack()), probe=False)
    assert [str(group) for group in summary.op_groups] == ["FULLY_CONNECTED float32 x int8 -> float32: 2"]
    assert summary.quantization.per_channel == 1


def test_shared_buffer_counts_once(builder, write):
    buffer = builder.buffer(np.zeros(100, np.float32))
    for name in ("first", "second"):
        builder.tensor(name, [100], buffer=buffer)
    builder.ends({}, {})
    summary = inspect(write(builder.pack()), probe=False)
    assert summary.data_bytes == 400
    assert [item.name for item in summary.largest_tensors] == ["first"]


def test_only_the_ten_largest_tensors(builder, write):
    for size in range(1, 16):
        builder.tensor(f"t{size}", [size], data=np.zeros(size, np.float32))
    builder.ends({}, {})
    assert [item.name for item in inspect(write(builder.pack()), probe=False).largest_tensors] == [
        f"t{n}" for n in range(15, 5, -1)
    ]


def test_flex_and_custom_ops_are_told_apart(flex_op, custom_op, write):
    flex = inspect(write(flex_op, "flex.tflite"))
    assert flex.flex_ops == ("FlexErf",)
    assert flex.custom_ops == ()
    assert flex.probe_failure is not None
    assert "FlexErf" in flex.probe_failure
    custom = inspect(write(custom_op, "custom.tflite"))
    assert custom.custom_ops == ("MyOwnOp",)
    assert custom.probe_failure is not None
    assert custom.probe_failure.startswith("needs custom op MyOwnOp")
    assert not custom.integer_only


def test_metadata_and_files_behind_the_model(builder, write):
    builder.metadata("min_runtime_version", b"2.3.0\0\0\0")
    builder.metadata("TFLITE_METADATA", b"\x10\0\0\0M001" + bytes(3))
    path = write(builder.pack())
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("vocab.txt", "a\nb\n")
    summary = inspect(path, probe=False)
    assert summary.min_runtime_version == "2.3.0"
    assert summary.metadata == {"min_runtime_version": 8, "TFLITE_METADATA": 11}
    assert summary.associated_files == {"vocab.txt": 4}
    assert summary.model_metadata is None
    assert summary.metadata_failure == "its TFLITE_METADATA entry is damaged"


def test_summary_as_text_and_json(add_int8, write):
    summary = inspect(write(add_int8))
    text = describe(summary)
    assert "input  a: int8 [1, 4], scale 0.5, zero point 3" in text
    assert "integer only: yes" in text
    assert json.loads(to_json(summary))["signatures"]["serving_default"]["inputs"][1]["name"] == "b"


def test_crash_of_the_child_is_told_not_raised(dense, write, monkeypatch):
    # A library that ends the process stands in for a runtime that crashes on a file.
    monkeypatch.setattr("edgekit.tflite.inspect._delegation", _dies)
    summary = inspect(write(dense))
    assert summary.delegation is None
    assert summary.probe_failure is not None
    assert "SIGSEGV" in summary.probe_failure


def _dies(path: Path) -> Delegation:
    import os
    import signal

    os.kill(os.getpid(), signal.SIGSEGV)
    raise AssertionError


@pytest.mark.timing
def test_loads_no_framework_and_takes_less_than_a_second(builder, write):
    weights = builder.tensor("weights", [250_000], data=np.zeros(250_000, np.float32))
    x, y = builder.tensor("x", [1]), builder.tensor("y", [250_000])
    builder.op("ADD", [x, weights], [y])
    builder.ends({"x": x}, {"y": y})
    path = write(builder.pack())
    code = (
        "import sys; from pathlib import Path; from edgekit.tflite.inspect import inspect; "
        f"inspect(Path({str(path)!r})); "
        "print([name for name in ('torch', 'tensorflow', 'jax', 'ai_edge_litert.interpreter') if name in sys.modules])"
    )
    seconds = []
    for _ in range(3):
        started = time.perf_counter()
        assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.strip() == "[]"
        seconds.append(time.perf_counter() - started)
    # Three times what it should take, for machines that do other work meanwhile.
    assert min(seconds) < 3


def test_shared_corpus(shared):
    files = sorted((shared / "corpus" / "tflite").glob("*.tflite"))
    assert files
    failed = {}
    probed = 0
    for index, file in enumerate(files):
        try:
            # A child for every third keeps this short.
            summary = inspect(file, probe=index % 3 == 0)
            assert isinstance(summary, Summary)
            assert describe(summary)
            probed += summary.delegation is not None
        except EdgekitError as error:
            assert isinstance(error, ModelFormatError)
            failed[file.name] = str(error)
    assert [name for name in failed if "broken" not in name] == []
    assert probed > 10


def test_shared_metadata(shared):
    summary = inspect(shared / "corpus" / "tflite" / "test_data__mobilenet_v1_0.5_160_quant.tflite", probe=False)
    assert summary.model_metadata is not None
    assert summary.model_metadata.inputs[0].mean == (127.5,)
    assert summary.model_metadata.inputs[0].std == (127.5,)
    assert list(summary.associated_files) == ["imagenet_labels.txt"]


@pytest.mark.parametrize(
    ("name", "partitions"), [("reference/tf2_mobilenet_v2_1.0_224_ptq.tflite", 1), ("models/mobilenet_v1_0.25_224.tflite", 2)]
)
def test_shared_partitions(shared, name, partitions):
    delegation = inspect(shared / name).delegation
    assert delegation is not None
    assert delegation.partitions == partitions
    assert partitions <= delegation.delegated_ops < delegation.ops
