"""`convert` from every kind of source to every scheme: what is published, what is refused, and what a failure leaves behind."""

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter

from edgekit.data.samples import Samples
from edgekit.errors import CalibrationError, ConfigError, DatasetError, EdgekitError, ModelFormatError, OutputError
from edgekit.spec import DataSpec
from edgekit.stages.export.direct import VERSION
from edgekit.stages.quantize import quantizer
from edgekit.stages.quantize.schemes import SCHEMES
from edgekit.system.worker import Progress, Worker
from edgekit.tflite.inspect import inspect
from edgekit.tflite.interpreter import Model
from edgekit.workflows.convert.config import Bridge, ConvertConfig
from edgekit.workflows.convert.conversion import Conversion, Converted, convert
from edgekit.workflows.evaluate import evaluate
from tests import tiny
from tests.integration import sources
from tests.unit.stages.quantize.models import conv_net, conv_samples, save
from tests.unit.tflite.conftest import Builder

LENGTH = 16
EVERY = ("all",)
TOOLS = {"direct": ["torch", f"onnx2tf=={VERSION}"], "litert": ["litert-torch"], "tf": ["torch", "onnx2tf", "tensorflow"]}


def images(path: Path, arrays: dict[str, np.ndarray] | None = None) -> str:
    """An .npz of 64 float images with labels of ten classes, or of `arrays` in their place."""
    labelled = {"image": conv_samples(64).inputs["x"], "y": np.arange(64) % 10}
    np.savez(path, allow_pickle=False, **(arrays or labelled))
    return str(path)


def published(result: Converted) -> Path:
    assert result.path is not None, result.refused
    return result.path


def facts(result: Converted) -> dict[str, Any]:
    return dict(json.loads(published(result).with_suffix(".json").read_text()))


@pytest.fixture(scope="module")
def bert(tiny_bert, tmp_path_factory) -> Conversion:
    """All schemes of a checkpoint through the default road, on sentences."""
    room = tmp_path_factory.mktemp("convert")
    data = tiny.write_tsv(room / "sentences.tsv", 128, seed=5)
    config = ConvertConfig(schemes=EVERY, data=DataSpec(str(data)), representative_samples=64, max_length=LENGTH, max_drop=0.2)
    return convert(str(tiny_bert), room / "out", config)


@pytest.mark.parametrize("road", [Bridge.DIRECT, Bridge.LITERT, Bridge.TF])
def test_every_road_leads_to_the_same_function(bert, road, tiny_bert, tmp_path):
    try:
        found = convert(str(tiny_bert), tmp_path / "out", ConvertConfig(("float32",), bridge=road, max_length=LENGTH))
    except ConfigError as error:
        pytest.skip(error.message)
    draw = np.random.default_rng(0)
    rows = Samples({"input_ids": draw.integers(5, 40, (8, LENGTH), np.int32), "attention_mask": np.ones((8, LENGTH), np.int32)})
    logits = [np.concatenate([Model(published(one.results[0])).run(row)["logits"] for row in rows]) for one in (bert, found)]
    np.testing.assert_allclose(logits[1], logits[0], rtol=1e-4, atol=1e-5)
    assert facts(found.results[0])["measured"]["bridge"] == {"name": road, "tools": TOOLS[road], "failed": {}}


@pytest.fixture(scope="module")
def network(tmp_path_factory) -> Path:
    return save(conv_net(), tmp_path_factory.mktemp("network") / "network.tflite")


def test_all_five_schemes_of_a_checkpoint_are_published_with_their_manifests(bert, tiny_bert):
    assert bert.refusals == ()
    assert [result.scheme for result in bert.results] == list(SCHEMES)
    for result in bert.results:
        assert published(result).name == f"{tiny_bert.name}_{result.scheme}.tflite"
        assert published(result).with_suffix(".json").is_file()
    assert (published(bert.results[0]).parent / "tokenizer.json").is_file()


def test_signature_names_are_those_of_the_checkpoint(bert):
    for result in bert.results:
        signature = Model(published(result)).signature
        assert {(spec.name, spec.shape, spec.dtype) for spec in signature.inputs} == {
            ("input_ids", (1, LENGTH), "int32"),
            ("attention_mask", (1, LENGTH), "int32"),
        }
        assert [(spec.shape, spec.dtype) for spec in signature.outputs] == [((1, 2), "float32")]


def test_every_file_runs_and_agrees_with_float32(bert):
    draw = np.random.default_rng(0)
    rows = Samples({"input_ids": draw.integers(5, 40, (24, LENGTH), np.int32), "attention_mask": np.ones((24, LENGTH), np.int32)})
    found = {r.scheme: np.concatenate([next(iter(Model(published(r)).run(row).values())) for row in rows]) for r in bert.results}
    for scheme, least in (("float16", 1.0), ("dynamic", 0.9), ("int16x8", 0.9), ("int8", 0.85)):
        assert (found[scheme].argmax(-1) == found["float32"].argmax(-1)).mean() >= least, scheme


def test_the_manifest_names_maker_measurement_and_content(bert, tiny_bert):
    for result in bert.results:
        manifest = facts(result)
        content = published(result).read_bytes()
        assert manifest["sha256"] == hashlib.sha256(content).hexdigest()
        assert manifest["size_bytes"] == len(content)
        assert list(manifest["parents"]) == [tiny_bert.name]
        assert manifest["config"]["scheme"] == result.scheme
        measured = manifest["measured"]
        tools = measured["bridge"]["tools"]
        assert tools == TOOLS[measured["bridge"]["name"]]
        versions = {name: version for name, _, version in (tool.partition("==") for tool in tools)}
        assert {*versions, "ai-edge-quantizer", "ai-edge-litert"} <= set(manifest["tools"])
        assert all(manifest["tools"][name] == version for name, version in versions.items() if version)
        assert measured["measurement"]["latency"]["p50_ms"] > 0
        assert measured["measurement"]["metric"]["total"] == 64
        assert measured["measurement"]["agreement"]["value"] == result.measurement.agreement.value
        assert measured["data"].startswith("64 rows of ")
        assert measured["measurement"]["metric"]["metric"] == "accuracy"
        assert (measured["task"], measured["settings"]["labels"]) == ("text-classification", ["negative", "positive"])
    made_by = {result.scheme: facts(result)["measured"]["plan"]["made_by"] for result in bert.results}
    assert made_by["float16"] == "edgekit"
    assert made_by["int8"] == made_by["int16x8"] == made_by["dynamic"] == "ai-edge-quantizer"


def test_the_manifest_says_why_each_float_op_of_an_integer_file_is_float(bert):
    plan = facts(next(result for result in bert.results if result.scheme == "int8"))["measured"]["plan"]
    assert plan["integer"]["FULLY_CONNECTED"] > 0
    assert set(plan["reasons"]) == set(plan["floating"])
    assert all(plan["reasons"].values())
    assert [candidate["name"] for candidate in plan["candidates"]] == ["every op", "matrix products"]


def test_parity_with_the_checkpoint_is_on_record(bert):
    parity = facts(bert.results[0])["measured"]["parity"]
    assert parity
    assert all(hop["max_rel"] <= 1e-3 for hop in parity.values())


def test_what_is_there_is_neither_replaced_nor_touched_without_overwrite(bert, tiny_bert, contents):
    out = published(bert.results[0]).parent
    before = contents(out)
    with pytest.raises(OutputError, match=r"_float32\.tflite: exists already; add --overwrite"):
        convert(str(tiny_bert), out, ConvertConfig(schemes=("float32",)))
    assert contents(out) == before


@pytest.fixture(scope="module")
def foreign(tmp_path_factory) -> Path:
    """Folder with model.h5, the SavedModel `saved`, model.onnx and images.npz."""
    folder = tmp_path_factory.mktemp("foreign")
    Worker(timeout_s=300).run(sources.write_keras, folder)
    Worker(timeout_s=300).run(sources.write_onnx, folder / "model.onnx")
    images(folder / "images.npz")
    return folder


@pytest.mark.parametrize(("name", "output"), [("model.h5", "dense"), ("saved", "output_0"), ("model.onnx", "class scores")])
def test_a_foreign_source_becomes_all_schemes(foreign, tmp_path, name, output):
    config = ConvertConfig(schemes=EVERY, data=DataSpec(str(foreign / "images.npz")), representative_samples=32, max_drop=None)
    found = convert(str(foreign / name), tmp_path / "out", config)
    assert found.refusals == ()
    assert len(list((tmp_path / "out").glob("*.tflite"))) == len(SCHEMES)
    for result in found.results:
        agreement = facts(result)["measured"]["measurement"]["agreement"]
        assert agreement["value"] >= 0.8
        signature = Model(published(result)).signature
        assert (signature.inputs[0].shape, signature.outputs[0].name) == ((1, 8, 8, 3), output)
    assert next(iter(found.float_model.parity.values())).max_rel <= 1e-3


def test_rows_may_have_channels_where_the_source_has_them(foreign, tmp_path):
    with np.load(foreign / "images.npz") as stored:
        arrays = dict(stored)
    arrays["image"] = np.moveaxis(arrays["image"], -1, 1)
    assert arrays["image"].shape[1:] == (3, 8, 8)
    np.savez(tmp_path / "first.npz", **arrays)
    rows = {"first": tmp_path / "first.npz", "last": foreign / "images.npz"}
    files, metrics = [], []
    for name, data in rows.items():
        config = ConvertConfig(schemes=("float32", "dynamic"), data=DataSpec(str(data)), representative_samples=32, max_drop=None)
        conversion = convert(str(foreign / "model.onnx"), tmp_path / name, config)
        assert any(note.startswith("The files take channels last (image (1, 8, 8, 3))") for note in conversion.notes)
        files.append([published(result) for result in conversion.results])
    for file in files[0]:
        metrics.append([evaluate(file, DataSpec(str(data))).metric for data in rows.values()])
    assert [file.read_bytes() for file in files[0]] == [file.read_bytes() for file in files[1]]
    assert all(first == last and first is not None for first, last in metrics)


@pytest.mark.parametrize("name", ["model.h5", "saved", "model.onnx"])
def test_rows_of_another_shape_are_refused_before_anything_is_converted(foreign, tmp_path, name):
    np.savez(tmp_path / "rows.npz", image=np.zeros((32, 8, 3, 8), np.float32))
    steps: list[Progress] = []
    config = ConvertConfig(schemes=("float32",), data=DataSpec(str(tmp_path / "rows.npz")))
    with pytest.raises(DatasetError, match=r"expects float32 \(8, 8, 3\) per sample.* its axes are in another order, transpose it"):
        convert(str(foreign / name), tmp_path / "out", config, on_progress=steps.append)
    assert steps == []


def test_arrays_go_into_the_published_file_as_they_went_into_the_model(foreign, tmp_path):
    """In the shape of images, too: no usual mean and standard deviation come between, which would be measured as something else."""
    data = DataSpec(str(foreign / "images.npz"))
    config = ConvertConfig(schemes=("float32",), data=data, representative_samples=32, max_drop=None)
    model = Model(file := published(convert(str(foreign / "model.h5"), tmp_path / "out", config).results[0]))
    given, said, rows = model.signature.input_names[0], model.signature.outputs[0].name, conv_samples(64).inputs["x"]
    decided = np.array([model.run({given: row[np.newaxis]})[said].argmax() for row in rows])
    metric = evaluate(file, DataSpec(images(tmp_path / "decided.npz", {"image": rows, "y": decided}))).metric
    assert metric is not None
    assert (metric.metric, metric.count, metric.total) == ("accuracy", 64, 64)


def test_a_float_tflite_becomes_all_schemes_and_the_manifest_says_what_it_was(network, tmp_path):
    data = images(tmp_path / "images.npz")
    found = convert(
        str(network),
        tmp_path / "out",
        ConvertConfig(schemes=EVERY, data=DataSpec(data), representative_samples=32, max_drop=None),
    )
    assert found.refusals == ()
    assert facts(found.results[0])["measured"]["bridge"] == {"name": "auto", "tools": [], "failed": {}}
    assert Model(published(found.results[0])).signature.input_names == ("x",)


def test_a_tflite_without_a_signature_is_compared_with_what_is_made_of_it(tmp_path):
    build = conv_net()
    build.model.signatureDefs = []
    for tensor in build.current.tensors:
        tensor.name = f"Network/{tensor.name}"
    network = save(build, tmp_path / "network.tflite")
    found = convert(str(network), tmp_path / "out", ConvertConfig(schemes=("float32",)))
    assert found.refusals == ()
    assert found.float_model.parity["tflite to float32 .tflite"].max_rel == 0


def test_a_tflite_without_outputs_is_refused(tmp_path):
    build = Builder()
    build.ends({"x": build.tensor("x", [1, 4])}, {}, "serving_default")
    with pytest.raises(ModelFormatError, match=r"empty\.tflite: computes nothing, it has no outputs"):
        convert(str(save(build, tmp_path / "empty.tflite")), tmp_path / "out", ConvertConfig(schemes=("float32",)))


def test_a_keras_file_s_own_code_is_not_run(tmp_path):
    left = tmp_path / "left"
    Worker(timeout_s=120).run(sources.write_lambda, tmp_path / "model.h5", left)
    assert not left.exists()
    with pytest.raises(ModelFormatError, match=r"model\.h5: Lambda layer doubled holds Python code"):
        convert(str(tmp_path / "model.h5"), tmp_path / "out", ConvertConfig(schemes=("float32",)))
    assert not left.exists()


def test_one_of_several_signatures_is_not_guessed(tmp_path):
    Worker(timeout_s=120).run(sources.write_signatures, tmp_path / "saved")
    with pytest.raises(ModelFormatError, match=r"saved: has the signatures first, second and no serving_default"):
        convert(str(tmp_path / "saved"), tmp_path / "out", ConvertConfig(schemes=("float32",)))


def test_integer_ends(network, tmp_path):
    config = ConvertConfig(
        schemes=("int8",), data=DataSpec(images(tmp_path / "i.npz")), max_drop=None, inputs="int8", outputs="uint8"
    )
    found = convert(str(network), tmp_path / "out", config)
    signature = Model(published(found.results[0])).signature
    assert (signature.inputs[0].dtype, signature.outputs[0].dtype) == ("int8", "uint8")


@pytest.mark.parametrize("name", ["recurrent.h5", "recurrent"])
def test_recurrent_layers_of_keras_become_float_and_integers(name, tmp_path):
    Worker(timeout_s=300).run(sources.write_recurrent, tmp_path / name)
    rows = np.random.default_rng(0).standard_normal((64, 6, 4)).astype(np.float32)
    np.savez(tmp_path / "rows.npz", x=rows)
    schemes = ("float32", "int8", "int16x8")
    config = ConvertConfig(schemes, data=DataSpec(str(tmp_path / "rows.npz")), min_db=10.0, search_seconds=0.0)
    found = convert(str(tmp_path / name), tmp_path / "out", config)
    assert found.refusals == ()
    assert [Model(published(result)).signature.inputs[0].shape for result in found.results] == [(1, 6, 4)] * 3
    # No row begins with the state that the one before it has left, in a program that resets none.
    interpreter = Interpreter(str(published(found.results[0])))
    interpreter.allocate_tensors()
    ends = [details()[0]["index"] for details in (interpreter.get_input_details, interpreter.get_output_details)]
    results = []
    for row in (rows[:1], rows[1:2], rows[:1]):
        interpreter.set_tensor(ends[0], row)
        interpreter.invoke()
        results.append(interpreter.get_tensor(ends[1]))
    assert np.array_equal(results[0], results[2])
    assert not np.allclose(results[0], results[1])


def test_a_quantized_tflite_is_no_source(network, tmp_path):
    quantized = tmp_path / "dynamic.tflite"
    quantizer.write_dynamic(network, None, quantized)
    with pytest.raises(ModelFormatError, match=r"dynamic\.tflite: is quantized already"):
        convert(str(quantized), tmp_path / "out", ConvertConfig(schemes=("float16",)))


@pytest.mark.parametrize(
    ("function", "cause"),
    [(sources.crash, "SIGABRT"), (sources.take_memory, "out of memory"), (sources.leave, "a library left the process")],
)
def test_a_scheme_whose_child_dies_leaves_the_others_published(network, tmp_path, monkeypatch, function, cause):
    monkeypatch.setattr(quantizer, "write_dynamic", function)
    found = convert(str(network), tmp_path / "out", ConvertConfig(schemes=("float32", "float16", "dynamic")))
    assert cause in found.refusals[0]
    assert sorted(path.name for path in (tmp_path / "out").glob("*.tflite")) == [
        "network_float16.tflite",
        "network_float32.tflite",
    ]


def test_a_file_that_decides_otherwise_is_refused_with_its_figures(network, tmp_path, monkeypatch):
    monkeypatch.setattr(quantizer, "write_float16", sources.lie)
    data = images(tmp_path / "images.npz", {"image": conv_samples(64).inputs["x"]})
    config = ConvertConfig(("float32", "float16", "int8"), "tabular-classification", DataSpec(data), max_drop=0.3)
    found = {result.scheme: result for result in convert(str(network), tmp_path / "out", config).results}
    assert re.match(
        r"decides otherwise than float32 on [\d.]+ % of 64 decisions, --max-drop allows 30.0 %", found["float16"].refused or ""
    )
    assert not (tmp_path / "out/network_float16.tflite").exists()
    assert published(found["float32"]).is_file()
    assert published(found["int8"]).is_file()


def broken(name: str) -> dict[str, np.ndarray]:
    rows = conv_samples(64).inputs["x"].copy()
    if name == "too few":
        return {"x": rows[:5]}
    if name == "constant":
        return {"x": np.ones_like(rows)}
    if name == "shape":
        return {"x": rows[:, :7]}
    if name == "integers":
        return {"x": (rows * 100).astype(np.complex64)}
    rows[:, 2, 2, 2] = np.nan
    return {"x": rows}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("too few", r"has 5 rows, too few to calibrate with; give at least 10"),
        ("constant", r"input 'x' is constant|all 64 samples are the same"),
        ("shape", r"input 'x'.*\(8, 8, 3\).*\(7, 8, 3\)"),
        ("integers", r"input 'x' expects float32"),
        ("nan", r"sample 0 \(from 0\) has NaN or infinity in input 'x'"),
    ],
)
def test_bad_representative_data_is_told_before_anything_is_written(network, tmp_path, name, message):
    data = images(tmp_path / "images.npz", broken(name))
    with pytest.raises((CalibrationError, DatasetError), match=message):
        convert(str(network), tmp_path / "out", ConvertConfig(schemes=("int8",), data=DataSpec(data)))
    assert list((tmp_path / "out").glob("*.tflite")) == []


def test_empty_data_is_told(tiny_bert, tmp_path):
    (tmp_path / "empty.tsv").write_text("sentence\tlabel\n")
    config = ConvertConfig(schemes=("int8",), data=DataSpec(str(tmp_path / "empty.tsv")))
    with pytest.raises((CalibrationError, DatasetError), match=r"empty\.tsv: .*(no rows|0 rows)"):
        convert(str(tiny_bert), tmp_path / "out", config)


def test_labels_outside_the_head_are_told_before_the_export(tiny_bert, tmp_path):
    lines = [f"{text}\t{label + 4}" for text, label in tiny.sentences(32)]
    (tmp_path / "far.tsv").write_text("\n".join(["sentence\tlabel", *lines]) + "\n")
    config = ConvertConfig(schemes=("int8",), data=DataSpec(str(tmp_path / "far.tsv")), max_length=LENGTH)
    with pytest.raises(DatasetError, match=r"far\.tsv.*label"):
        convert(str(tiny_bert), tmp_path / "out", config)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"schemes": ("float32",), "input_shapes": {"x": (1, 2)}}, "--input-shape is for .onnx files"),
        ({"schemes": ("float32",), "input_values": {"x": (1.0,)}}, "--input-value is for .onnx files"),
        (
            {"schemes": ("int8",), "data": DataSpec("d.tsv"), "integer_only": True, "mediapipe": True},
            "MediaPipe takes float32",
        ),
    ],
)
def test_what_a_checkpoint_cannot_have_is_told_before_the_export(tiny_bert, tmp_path, settings, words):
    with pytest.raises(ConfigError, match=f"^bert: {words}"):
        convert(str(tiny_bert), tmp_path / "out", ConvertConfig(**settings))
    assert list(tmp_path.iterdir()) == []


def test_integer_schemes_without_data_are_a_wrong_option(tmp_path):
    with pytest.raises(ConfigError, match="scheme int8 and int16x8 calibrates on real samples"):
        convert("a checkpoint", tmp_path, ConvertConfig(schemes=("all",)))


RUN = """
import sys, time
from pathlib import Path
from edgekit.workflows.convert.conversion import convert
from edgekit.spec import DataSpec
from edgekit.workflows.convert.config import ConvertConfig
def tell(step):
    place = step.stage + (" is over" if step.done >= step.total else "")
    print(place, flush=True)
    if place == sys.argv[4]:
        time.sleep(30)
config = ConvertConfig(schemes=("all",), data=DataSpec(sys.argv[2]), max_drop=None)
convert(sys.argv[1], Path(sys.argv[3]), config, overwrite=True, on_progress=tell)
"""


@pytest.mark.parametrize("stage", ["convert: int8", "benchmark is over"])
def test_a_killed_run_leaves_the_previous_output_and_the_next_one_works(network, tmp_path, contents, stage):
    data, out = images(tmp_path / "images.npz"), tmp_path / "out"
    quick = ConvertConfig(schemes=("float32",))
    convert(str(network), out, quick)
    before = {name: content for name, content in contents(out).items() if not name.startswith(".")}
    child = subprocess.Popen(
        [sys.executable, "-c", RUN, str(network), data, str(out), stage],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])},
    )
    try:
        assert child.stdout is not None
        assert stage in (line.strip() for line in child.stdout)
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait()
    after = {name: content for name, content in contents(out).items() if not name.startswith(".")}
    assert after == before
    convert(str(network), out, quick, overwrite=True)
    assert not [path for path in out.iterdir() if "partial" in path.name]


def test_two_runs_on_one_output_do_not_mix(network, tmp_path):
    from edgekit.system import artifacts

    with artifacts.claimed(tmp_path / "out"), pytest.raises(EdgekitError, match="another edgekit run is writing here"):
        convert(str(network), tmp_path / "out", ConvertConfig(schemes=("float32",)))


def test_images_for_mediapipe_are_measured_as_they_are_published(network, tmp_path):
    (tmp_path / "labels.txt").write_text("".join(f"class {number}\n" for number in range(10)))
    data = images(tmp_path / "images.npz")
    config = ConvertConfig(
        ("float32", "dynamic"), data=DataSpec(data), max_drop=1.0, mediapipe=True, labels=tmp_path / "labels.txt"
    )
    found = convert(str(network), tmp_path / "out", config)
    for result in found.results:
        summary = inspect(published(result), probe=False)
        assert summary.metadata_failure is None
        assert summary.associated_files["labels.txt"] == 80
        assert [spec.name for spec in summary.signature.outputs] == ["probabilities"]
        assert result.measurement is not None
        assert result.measurement.size_bytes == published(result).stat().st_size == facts(result)["size_bytes"]
        assert summary.sha256 == facts(result)["sha256"]
    agreement = facts(found.results[1])["measured"]["measurement"]["agreement"]
    assert agreement["value"] > 0.9
