"""What an Android app takes over: the same bytes, Kotlin that fits the signature, and rows that the file itself answered."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema

from edgekit.data.sources import ImageRows
from edgekit.deploy.android.bundle import BundleConfig, bundle
from edgekit.deploy.android.kotlin import identifier, literal
from edgekit.errors import DatasetError, ModelFormatError, OutputError, UnsupportedOpError
from edgekit.models.source import Kind, Source
from edgekit.spec import DataSpec
from edgekit.tasks.classification import IMAGE_CLASSIFICATION
from edgekit.tflite import package
from edgekit.tflite.interpreter import Model
from edgekit.workflows.convert import contents
from edgekit.workflows.convert.config import ConvertConfig
from tests.commands import edgekit
from tests.unit.classifiers import image_classifier, span_model, text_classifier
from tests.unit.tflite.conftest import Builder
from tests.unit.workflows import test_predict


def packed(folder: Path, target: Path, *, mediapipe: bool = False, pairs: bool = False) -> Path:
    carried = test_predict.packed(folder, target.with_suffix(".folder"), pairs=pairs, mediapipe=mediapipe)
    return carried.rename(target)


@pytest.fixture(scope="module")
def text_file(tiny_bert, tmp_path_factory) -> Path:
    return packed(tiny_bert, tmp_path_factory.mktemp("text") / "bert-tiny_float32.tflite")


@pytest.fixture(scope="module")
def text_bundle(text_file, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("bundles") / "text"
    bundle(text_file, out)
    return out


def fed(golden: dict[str, Any], number: int, path: Path) -> dict[str, np.ndarray]:
    """A golden row's inputs as the test on the phone makes them."""
    specs = {spec.name: spec for spec in Model(path).signature.inputs}
    row = golden["cases"][number]["inputs"]
    return {name: np.resize(np.array(values, specs[name].dtype), specs[name].shape) for name, values in row.items()}


def test_a_text_bundle_is_whole(text_bundle, text_file):
    names = {file.name for file in text_bundle.iterdir()}
    assert names == {
        "bert-tiny_float32.tflite",
        "BertTinyFloat32.kt",
        "BertTinyFloat32Compiled.kt",
        "BertTinyFloat32GoldenTest.kt",
        "README.md",
        "SHA256SUMS",
        "dependencies.gradle.kts",
        "golden.json",
    }
    assert (text_bundle / text_file.name).read_bytes() == text_file.read_bytes()
    sums = dict(reversed(line.split("  ")) for line in (text_bundle / "SHA256SUMS").read_text().splitlines())
    assert set(sums) == names - {"SHA256SUMS"}
    assert all(hashlib.sha256((text_bundle / name).read_bytes()).hexdigest() == digest for name, digest in sums.items())
    readme = (text_bundle / "README.md").read_text()
    assert "The tokenizer is inside the file: tokenizer.json, vocab.txt." in readme
    assert "- since 1.5: CAST 1, FULLY_CONNECTED 1, MUL 1\n" in readme
    assert "Custom ops: none. Flex ops: none." in readme
    assert len(readme.splitlines()) < 40


def test_kotlin_names_this_signature(text_bundle):
    code = (text_bundle / "BertTinyFloat32.kt").read_text()
    assert "fun classify(inputIds: IntArray, attentionMask: IntArray): Map<String, Float>" in code
    assert '"input_ids" to bytes(inputIds, 16),' in code
    assert '"serving_default",' in code
    assert "const val SEQUENCE_LENGTH = 16" in code
    assert '"negative",\n            "positive",\n' in code
    assert "createInputBuffer(it, SIGNATURE)" in (text_bundle / "BertTinyFloat32Compiled.kt").read_text()
    for file in text_bundle.glob("*.kt*"):
        text = file.read_text()
        assert [text.count(mark) for mark in "({["] == [text.count(mark) for mark in ")}]"], file.name


def test_golden_rows_are_what_the_file_gives(text_bundle, text_file):
    golden = json.loads((text_bundle / "golden.json").read_text())
    assert golden["source"] == "6 built-in sentences"
    assert golden["sha256"] == hashlib.sha256(text_file.read_bytes()).hexdigest()
    assert len(golden["cases"]) == 6
    tolerance = golden["tolerance"]["logits"]
    assert 0 < tolerance < 0.01
    for number, case in enumerate(golden["cases"]):
        found = Model(text_file).run(fed(golden, number, text_file))["logits"][0]
        np.testing.assert_allclose(case["outputs"]["logits"], found, rtol=1e-6)
        assert case["label"] in (None, ["negative", "positive"][int(found.argmax())])
    assert any(case["label"] for case in golden["cases"])


def test_rows_of_a_data_set_are_drawn_with_the_seed(text_file, tiny_tsv, tmp_path):
    texts = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        bundle(text_file, tmp_path / name, BundleConfig(DataSpec(str(tiny_tsv), samples=8, seed=seed)))
        golden = json.loads((tmp_path / name / "golden.json").read_text())
        assert golden["source"].startswith("8 rows of ")
        texts.append([case["text"] for case in golden["cases"]])
    assert texts[0] == texts[1] != texts[2]


def test_outputs_of_tokens_are_flat_and_their_labels_are_listed(tiny_bert, tmp_path):
    path = test_predict.tagger(tiny_bert, tmp_path / "tagger")
    bundle(path, tmp_path / "out")
    code = (tmp_path / "out" / "Packed.kt").read_text()
    assert '// Output "logits": float32 [1, 16, 3]. Logit of each tag for each token.' in code
    assert "FloatArray(48) { logitsOut.getFloat(4 * it) }" in code
    assert '"B-PER",' in code
    assert "classify" not in code + (tmp_path / "out" / "PackedGoldenTest.kt").read_text()
    assert "Token classifier" in (tmp_path / "out" / "README.md").read_text()
    golden = json.loads((tmp_path / "out" / "golden.json").read_text())
    logits = Model(path).run(fed(golden, 0, path))["logits"]
    np.testing.assert_allclose(golden["cases"][0]["outputs"]["logits"], logits.ravel(), rtol=1e-5)
    assert all(case["label"] is None for case in golden["cases"])


def test_every_output_is_in_the_golden_rows(tiny_bert, tmp_path):
    path = tmp_path / "spans.tflite"
    path.write_bytes(span_model())
    bundle(path, tmp_path / "out", BundleConfig(tokenizer=tiny_bert))
    golden = json.loads((tmp_path / "out" / "golden.json").read_text())
    assert set(golden["tolerance"]) == set(golden["cases"][0]["outputs"]) == {"start_logits", "end_logits"}


def test_mediapipe_files_get_its_kotlin(tiny_bert, tmp_path):
    path = packed(tiny_bert, tmp_path / "phone.tflite", mediapipe=True)
    found = bundle(path, tmp_path / "out")
    assert found.mediapipe
    assert 'TextClassifier.createFromFile(context, "phone.tflite")' in (tmp_path / "out" / "PhoneMediaPipe.kt").read_text()
    assert "tasks-text" in (tmp_path / "out" / "dependencies.gradle.kts").read_text()
    assert "tokenTypeIds: IntArray" in (tmp_path / "out" / "Phone.kt").read_text()


def test_pairs_have_a_second_text(tiny_bert, tmp_path):
    path = packed(tiny_bert, tmp_path / "pairs.tflite", pairs=True)
    bundle(path, tmp_path / "out")
    case = json.loads((tmp_path / "out" / "golden.json").read_text())["cases"][0]
    assert case["pair"]
    assert set(case["inputs"]["token_type_ids"]) == {0, 1}


def test_an_image_classifier_takes_bitmaps_and_random_rows(tmp_path):
    bare, path = tmp_path / "bare.tflite", tmp_path / "net.tflite"
    bare.write_bytes(image_classifier())
    rows = ImageRows((), None, ("cat", 'do"g$', "owl"), "images")
    settings = {"problem": "single_label_classification", "activation": "softmax", "labels": []}
    config = ConvertConfig(schemes=("float32",))
    found = contents.of_source(Source(Kind.ONNX, bare, "net"), bare, rows, IMAGE_CLASSIFICATION, settings, config)
    assert found is not None
    found.write(bare, path, "float32")
    written = bundle(path, tmp_path / "out")
    assert written.source == "8 rows of random values, drawn with seed 0"
    code = (tmp_path / "out" / "Net.kt").read_text()
    assert "fun input(bitmap: Bitmap): FloatArray" in code
    assert '"do\\"g\\$",' in code
    golden = json.loads((tmp_path / "out" / "golden.json").read_text())
    np.testing.assert_allclose(
        golden["cases"][3]["outputs"]["logits"], Model(path).run(fed(golden, 3, path))["logits"][0], rtol=1e-5
    )


def quantized(path: Path, *, key: str = "serving_default") -> Path:
    """An int8 input of 1,000 values and its uint8 output, by a QUANTIZE."""
    build = Builder()
    taken = build.tensor("in:0", [1, 1000], "int8", scale=[0.5], zero_point=3)
    given = build.tensor("out", [1, 1000], "uint8", scale=[0.5], zero_point=131)
    build.op("QUANTIZE", [taken], [given])
    build.ends({"in:0": taken}, {"out": given}, key)
    path.write_bytes(build.pack())
    return path


def test_quantized_tensors_repeat_a_short_list(tmp_path):
    path = quantized(tmp_path / "q.tflite")
    bundle(path, tmp_path / "out")
    golden = json.loads((tmp_path / "out" / "golden.json").read_text())
    values = golden["cases"][0]["inputs"]["in:0"]
    assert len(values) == 251
    real = 0.5 * (np.resize(values, 1000) - 3)
    np.testing.assert_allclose(golden["cases"][0]["outputs"]["out"], real)
    assert golden["tolerance"]["out"] == 0.5
    code = (tmp_path / "out" / "Q.kt").read_text()
    assert "fun run(in0: ByteArray)" in code
    assert "((outOut.get(it).toInt() and 0xff) - 131) * 0.5f" in code
    assert not (tmp_path / "out" / "QCompiled.kt").exists()
    assert "no uint8 in Kotlin" in (tmp_path / "out" / "README.md").read_text()


def test_an_output_without_a_fixed_size_is_refused(tmp_path):
    build = Builder()
    taken, shape = build.tensor("x", [1, 4]), build.tensor("shape", [2], "int32", data=np.array([2, 2], np.int32))
    given = build.tensor("y", [-1, -1])
    build.op("RESHAPE", [taken, shape], [given], schema.ReshapeOptionsT(newShape=[2, 2]))
    build.ends({"x": taken}, {"y": given}, "serving_default")
    path = tmp_path / "free.tflite"
    path.write_bytes(build.pack())
    with pytest.raises(ModelFormatError, match="output y has a size that only a run tells"):
        bundle(path, tmp_path / "out")


def test_without_a_signature_tensors_go_by_place(tmp_path):
    bundle(quantized(tmp_path / "q.tflite", key=""), tmp_path / "out")
    assert "runForMultipleInputsOutputs" in (tmp_path / "out" / "Q.kt").read_text()


def test_what_cannot_be_bundled(text_file, tiny_tsv, tmp_path, flex_file):
    out = tmp_path / "out"
    with pytest.raises(UnsupportedOpError, match="FlexErf"):
        bundle(flex_file, out)
    with pytest.raises(DatasetError, match="missing"):
        bundle(text_file, out, BundleConfig(DataSpec(str(tmp_path / "missing.tsv"), samples=8)))
    with pytest.raises(ModelFormatError, match="no such file"):
        bundle(tmp_path / "no.tflite", out)
    settings = {**package.settings(text_file), "labels": ["a", "b", "c"]}
    from edgekit.tflite import flatbuffer

    wrong = tmp_path / "wrong.tflite"
    files = {**package.read_files(text_file), "edgekit.json": json.dumps(settings).encode()}
    package.attach(text_file.read_bytes(), wrong, flatbuffer.read(text_file).model_metadata, files)
    with pytest.raises(ModelFormatError, match="names 3 labels"):
        bundle(wrong, out)
    assert not out.exists()
    out.mkdir()
    (out / "mine").write_text("kept")
    with pytest.raises(OutputError, match="exists already"):
        bundle(text_file, out)
    assert (out / "mine").read_text() == "kept"
    inside = out / "model.tflite"
    inside.write_bytes(text_file.read_bytes())
    with pytest.raises(OutputError, match="holds the file that is to be bundled"):
        bundle(inside, out, overwrite=True)
    assert inside.exists()


def test_the_command(text_file, tmp_path):
    said = edgekit("bundle", text_file, "--out", tmp_path / "out", "--json")
    assert (said.code, said.err) == (0, [])
    found = json.loads(said.out)
    assert found["source"] == "6 built-in sentences"
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == found["files"]
    said = edgekit("bundle", text_file, "--out", tmp_path / "out")
    assert said.code == 6
    assert "exists already" in said.err[0]
    said = edgekit("bundle", text_file, "--out", tmp_path / "out", "--overwrite")
    assert said.code == 0
    assert "golden rows: 6 built-in sentences" in said.out


def test_a_tokenizer_from_elsewhere(tiny_bert, tmp_path):
    bare = tmp_path / "bare.tflite"
    bare.write_bytes(text_classifier())
    assert bundle(bare, tmp_path / "random").source.startswith("8 rows of random values")
    assert bundle(bare, tmp_path / "texts", BundleConfig(tokenizer=tiny_bert)).source == "6 built-in sentences"
    assert "The file holds no tokenizer" in (tmp_path / "texts" / "README.md").read_text()


@pytest.fixture
def flex_file(tmp_path) -> Path:
    build = Builder()
    taken, given = build.tensor("x", [1, 4]), build.tensor("y", [1, 4])
    build.op("FlexErf", [taken], [given])
    build.ends({"x": taken}, {"y": given}, "serving_default")
    path = tmp_path / "flex.tflite"
    path.write_bytes(build.pack())
    return path


@pytest.mark.parametrize(
    ("name", "upper", "expected"),
    [
        ("minilm-l6-sst2_int8", True, "MinilmL6Sst2Int8"),
        ("serving_default_x:0", False, "servingDefaultX0"),
        ("224net", True, "Model224net"),
        ("in", False, "in_"),
        ("values", False, "values_"),
        ("context", True, "Context_"),
        ("é", False, "tensor"),
    ],
)
def test_identifiers(name, upper, expected):
    assert identifier(name, upper=upper) == expected


def test_literals():
    assert literal('a"b\\f$c\n') == '"a\\"b\\\\f\\$c\\n"'
