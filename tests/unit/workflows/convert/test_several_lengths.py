"""One file with a signature for each of several lengths: merged, chosen by row, and used by every command alike."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema

from edgekit.data.samples import Samples
from edgekit.deploy.android.bundle import BundleConfig, bundle
from edgekit.errors import ConfigError, ConversionError, ModelFormatError, UnsupportedOpError
from edgekit.measure.judge import BenchmarkConfig, benchmark, outputs
from edgekit.models.checkpoint import Checkpoint
from edgekit.models.source import Kind, Source
from edgekit.spec import DataSpec
from edgekit.stages.quantize.calibrate import calibrate
from edgekit.stages.quantize.forms import Form
from edgekit.stages.quantize.merge import LENGTHS as OPTION
from edgekit.stages.quantize.merge import carry_calibration, carry_form, merge, same_names
from edgekit.stages.quantize.quantizer import write_integer
from edgekit.tasks.metrics import proportion
from edgekit.tflite import flatbuffer, lengths, loading, signatures
from edgekit.tflite.inspect import describe, inspect
from edgekit.tflite.interpreter import Model
from edgekit.tflite.lengths import LengthsModel
from edgekit.workflows.convert import contents
from edgekit.workflows.convert.bridge import _check_float
from edgekit.workflows.convert.config import ConvertConfig
from edgekit.workflows.convert.several import judge
from edgekit.workflows.convert.several_lengths import LengthFigures, Lengths, rows_for, run_each
from edgekit.workflows.inputs import encode_for
from edgekit.workflows.predict import Predictor
from tests.commands import edgekit
from tests.unit.classifiers import text_classifier
from tests.unit.tflite.conftest import Builder

LENGTHS = (4, 8, 16)
LONGEST = LENGTHS[-1]
_TOKENS, _WIDTH = 200, 64


def encoder(length: int, *, shift: float = 0.0, suffix: str = "", tokens: bool = False) -> bytes:
    """Looks up each token, adds them up and multiplies; padding adds nothing, so every length answers alike but for `shift`.

    With `tokens` there is an output (1, length, 2) for each of them, too.
    """
    draw = np.random.default_rng(0)
    table = draw.standard_normal((_TOKENS, _WIDTH)).astype(np.float32)
    table[0] = 0
    build = Builder()
    ids, mask = build.tensor("ids", [1, length], "int32"), build.tensor("mask", [1, length], "int32")
    real, found = build.tensor(f"real{suffix}", [1, length], "int32"), build.tensor(f"found{suffix}", [1, length, _WIDTH])
    total, logits = build.tensor(f"total{suffix}", [1, _WIDTH]), build.tensor("logits", [1, 2])
    rows = build.tensor(f"table{suffix}", [_TOKENS, _WIDTH], data=table)
    axis = build.tensor("axis", [1], "int32", data=np.array([1], np.int32))
    matrix = draw.standard_normal((2, _WIDTH)).astype(np.float32) + np.float32(shift)
    weights, bias = (
        build.tensor(f"weights{suffix}", [2, _WIDTH], data=matrix),
        build.tensor(f"bias{suffix}", [2], data=matrix[:, 0]),
    )
    build.op("MUL", [ids, mask], [real], schema.MulOptionsT())
    build.op("GATHER", [rows, real], [found], schema.GatherOptionsT())
    build.op("SUM", [found, axis], [total], schema.ReducerOptionsT())
    build.op("FULLY_CONNECTED", [total, weights, bias], [logits], schema.FullyConnectedOptionsT())
    ends = {"logits": logits}
    if tokens:
        ends["tokens"] = build.tensor("tokens", [1, length, 2])
        build.op("FULLY_CONNECTED", [found, weights, bias], [ends["tokens"]], schema.FullyConnectedOptionsT(keepNumDims=True))
    build.ends({"input_ids": ids, "attention_mask": mask}, ends, "serving_default")
    return build.pack()


def merge_lengths(files: dict[int, Path], target: Path) -> None:
    """The longest first."""
    merge({lengths.key(length): files[length] for length in sorted(files, reverse=True)}, target, origin="model", option=OPTION)


def singles(room: Path, made=encoder, chosen=LENGTHS) -> dict[int, Path]:
    files = {length: room / f"{length}.tflite" for length in chosen}
    for length, file in files.items():
        file.write_bytes(made(length))
    return files


def packed(folder: Path, bare: Path, target: Path, length: int = LONGEST) -> Path:
    checkpoint, config = Checkpoint.read(folder), ConvertConfig(("float32",), max_length=length)
    source = Source(Kind.CHECKPOINT, folder, "bert", checkpoint)
    found = contents.of_source(source, bare, None, checkpoint.task, checkpoint.settings, config)
    assert found is not None
    found.write(bare, target, "float32")
    return target


@pytest.fixture(scope="module")
def parts(tmp_path_factory) -> dict[int, Path]:
    return singles(tmp_path_factory.mktemp("parts"))


@pytest.fixture(scope="module")
def bare(parts, tmp_path_factory) -> Path:
    target = tmp_path_factory.mktemp("merged") / "bare.tflite"
    merge_lengths(parts, target)
    return target


@pytest.fixture(scope="module")
def several(bare, tiny_bert) -> Path:
    """A packed classifier with all lengths."""
    return packed(tiny_bert, bare, bare.with_name("several.tflite"))


def row(tokens: int, *, right: bool = True) -> dict[str, np.ndarray]:
    """Ids 5, 6, … of so many tokens, padded to the longest."""
    ids, mask = np.zeros((1, LONGEST), np.int32), np.zeros((1, LONGEST), np.int32)
    place = slice(0, tokens) if right else slice(LONGEST - tokens, LONGEST)
    ids[0, place], mask[0, place] = np.arange(5, 5 + tokens), 1
    return {"input_ids": ids, "attention_mask": mask}


def answer(file: Path, given: dict[str, np.ndarray], tokens: slice) -> np.ndarray:
    """What a file of one length gives for these positions of a row."""
    return Model(file).run({name: array[:, tokens] for name, array in given.items()})["logits"]


def test_each_length_has_its_signature_and_the_longest_comes_first(bare):
    file = flatbuffer.read(bare)
    assert [entry.key for entry in file.entries] == ["run_16", "run_8", "run_4"]
    assert [entry.subgraph for entry in file.entries] == [0, 1, 2]
    assert file.signature(file.entry()).inputs[0].shape == (1, LONGEST)
    assert list(lengths.by_length(file)) == list(LENGTHS)


def test_what_is_alike_is_stored_once(bare, parts):
    assert bare.stat().st_size < 1.05 * parts[LONGEST].stat().st_size
    file = flatbuffer.read(bare)
    assert len({tensor.buffer for graph in file.subgraphs for tensor in graph.tensors if tensor.name == "table"}) == 1


def test_weights_that_differ_stay_apart(tmp_path):
    parts = singles(tmp_path, lambda length: encoder(length, shift=float(length)))
    target = tmp_path / "merged.tflite"
    merge_lengths(parts, target)
    model = loading.load(target)
    for tokens in LENGTHS:
        np.testing.assert_array_equal(model.run(row(tokens))["logits"], answer(parts[tokens], row(tokens), slice(tokens)))


@pytest.mark.parametrize(("tokens", "expected"), [(0, 4), (1, 4), (4, 4), (5, 8), (8, 8), (9, 16), (16, 16)])
@pytest.mark.parametrize("right", [True, False])
def test_a_row_runs_in_the_shortest_that_holds_it(bare, parts, tokens, expected, right):
    model = loading.load(bare)
    assert isinstance(model, LengthsModel)
    given = row(tokens, right=right)
    found = model.run(given)["logits"]
    assert model.length == expected
    place = slice(0, expected) if right or not tokens else slice(LONGEST - expected, LONGEST)
    np.testing.assert_array_equal(found, answer(parts[expected], given, place))


def test_a_hole_in_the_mask_is_no_padding():
    assert lengths.needed(np.array([[1, 0, 0, 1, 0, 0]])) == (4, True)
    assert lengths.needed(np.array([[0, 0, 1, 0, 0, 1]])) == (4, False)


def test_rows_of_another_width_are_told_as_before(bare):
    with pytest.raises(Exception, match=r"takes shape \(1, 16\), the data has \(1, 8\)"):
        loading.load(bare).run({name: array[:, :8] for name, array in row(3).items()})


def test_a_file_of_one_length_is_what_it_was(parts, tmp_path):
    assert type(loading.load(parts[8])) is Model
    one = tmp_path / "one.tflite"
    merge_lengths({8: parts[8]}, one)
    assert lengths.by_length(flatbuffer.read(one)) == {}
    assert type(loading.load(one)) is Model


def test_a_graph_that_calls_others_is_refused(tmp_path):
    build = Builder()
    a = build.tensor("a", [1, 4])
    build.ends({"a": a}, {"a": a}, "serving_default")
    build.graph()
    (tmp_path / "two.tflite").write_bytes(build.pack())
    with pytest.raises(UnsupportedOpError, match="leave --sequence-lengths out"):
        merge_lengths({4: tmp_path / "two.tflite"}, tmp_path / "out.tflite")


def test_names_are_carried_op_by_op(parts, tmp_path):
    names = same_names(parts[16], parts[4], OPTION)
    assert names["logits"] == "logits"
    assert carry_form(Form("x", floating=frozenset({"found", "gone"})), {"found": "found_4"}).floating == {"found_4", "gone"}
    other = tmp_path / "other.tflite"
    other.write_bytes(text_classifier(4))
    with pytest.raises(ConversionError, match="other ops at another size"):
        same_names(parts[16], other, OPTION)


@pytest.mark.parametrize("bits", [8, 16])
def test_carried_ranges_give_the_same_integers(tmp_path, bits):
    """Tensors have other names at the shorter length, as exporters number them."""
    parts = singles(tmp_path, chosen=(16,)) | singles(tmp_path, lambda length: encoder(length, suffix="_b"), (4,))
    rows = held_out(tmp_path / "rows", [3, 4, 9, 16] * 3)
    calibrate(parts[16], rows, tmp_path / "calibration")
    names = same_names(parts[16], parts[4], OPTION)
    assert names["table"] == "table_b"
    carry_calibration(tmp_path / "calibration", names, tmp_path / "carried")
    made = {}
    form = Form("products", bits, ops=("FULLY_CONNECTED",), floating=frozenset())
    for length, calibration, its in ((16, "calibration", form), (4, "carried", carry_form(form, names))):
        made[length] = tmp_path / f"{length}_int.tflite"
        write_integer(parts[length], tmp_path / calibration, made[length], its)
    target = tmp_path / "merged.tflite"
    merge_lengths(made, target)
    found = [
        {tensor.buffer for tensor in graph.tensors if tensor.name.startswith(("weights", "bias", "table")) and tensor.data_bytes}
        for graph in flatbuffer.read(target).subgraphs
    ]
    assert found[0] == found[1] and len(found[0]) == 3
    model = loading.load(target)
    assert isinstance(model, LengthsModel)
    short = model.run(row(4))["logits"]
    assert model.length == 4
    np.testing.assert_array_equal(short, model.models[16].run(row(4))["logits"])


def test_predict_chooses_by_the_text(several, parts, tiny_bert, tmp_path):
    predictor = Predictor(several)
    chosen = {}
    for text in ("good", "good film", "good film . a lovely story", "the " * 14, "the " * 40):
        found = predictor(text)
        chosen[text] = predictor._model.length  # type: ignore[union-attr]
        alone = packed(tiny_bert, parts[chosen[text]], tmp_path / "alone.tflite", chosen[text])
        assert Predictor(alone)(text).fields["scores"] == found.fields["scores"] if len(text) < 80 else found.remark
    assert list(chosen.values()) == [4, 4, 8, 16, 16]
    assert "cut to the 16 tokens" in predictor("the " * 15).remark
    assert predictor("the " * 14).remark == ""


def test_one_signature_is_loaded_until_another_is_needed(several, parts):
    model = loading.load_lazily(several)
    assert isinstance(model, LengthsModel) and not model.models
    for tokens, loaded in ((3, [4]), (4, [4]), (7, list(LENGTHS)), (2, list(LENGTHS)), (16, list(LENGTHS))):
        length = next(length for length in LENGTHS if length >= tokens)
        np.testing.assert_array_equal(model.run(row(tokens))["logits"], answer(parts[length], row(tokens), slice(length)))
        assert list(model.models) == loaded
    assert type(loading.load_lazily(parts[4])) is Model


@pytest.mark.parametrize("length", LENGTHS)
def test_a_signature_alone_is_a_sound_file(several, parts, tmp_path, length):
    alone = tmp_path / "alone.tflite"
    content = bytearray(several.read_bytes())
    for place, value in signatures.only(bytes(content), flatbuffer.read(several).entry(lengths.key(length))).items():
        content[place : place + 4] = value
    alone.write_bytes(content)
    file = flatbuffer.read(alone)
    assert ([entry.key for entry in file.entries], len(file.subgraphs)) == ([lengths.key(length)], 1)
    np.testing.assert_array_equal(
        Model(alone).run(short := lengths.cut(row(3), length))["logits"], Model(parts[length]).run(short)["logits"]
    )


def test_the_predict_command(several):
    said = edgekit("predict", several, "good film", "the " * 40, "--json")
    assert said.code == 0
    assert len(said.out.splitlines()) == 2
    assert said.err == ["edgekit: note: input 2: the text is too long: cut to the 16 tokens that the model takes, as in training"]


def test_evaluation_and_benchmark_choose_too(several, parts, tiny_tsv, tmp_path):
    samples = encode_for(several, DataSpec(str(tiny_tsv)), tmp_path)
    counts = samples.inputs["attention_mask"].sum(axis=1)
    assert (counts <= 8).any() and (counts > 8).any()
    found = outputs(several, samples)["logits"]
    expected = [
        answer(parts[8 if count <= 8 else 16], given, slice(8 if count <= 8 else 16))[0]
        for given, count in zip(samples, counts, strict=True)
    ]
    np.testing.assert_array_equal(found, np.array(expected))
    config = BenchmarkConfig(runs=8, warmup=0, rounds=1, gzip=False)
    measured = benchmark([several], samples, config, reference=parts[16])[0]
    assert measured.failure is None and measured.latency is not None
    assert measured.agreement is not None and measured.agreement.value == 1.0


def test_inspect_lists_all(several):
    found = inspect(several)
    assert list(found.signatures) == ["run_16", "run_8", "run_4"]
    assert found.probe_failure is None
    text = describe(found)
    assert "signature run_4" in text and "int32 [1, 4]" in text


def test_bundle_has_rows_for_each_and_kotlin_that_calls_it(several, parts, tmp_path):
    data = tmp_path / "short.tsv"
    data.write_text("sentence\n" + "a good film was dull\n" * 4)
    bundle(several, tmp_path / "out", BundleConfig(DataSpec(str(data))))
    golden = json.loads((tmp_path / "out" / "golden.json").read_text())
    assert golden["signature"] == "run_4, run_8, run_16"
    widths = [len(case["inputs"]["input_ids"]) for case in golden["cases"]]
    needed = [sum(case["inputs"]["attention_mask"]) for case in golden["cases"]]
    assert all(width in LENGTHS and width >= count for width, count in zip(widths, needed, strict=True))
    assert any(width == 8 for width in widths) and any(
        width == 16 and count <= 8 for width, count in zip(widths, needed, strict=True)
    )
    for case in golden["cases"]:
        given = {name: np.array([values], np.int32) for name, values in case["inputs"].items()}
        width = given["input_ids"].shape[1]
        np.testing.assert_allclose(answer(parts[width], given, slice(width))[0], case["outputs"]["logits"], rtol=1e-5)
    kotlin = (tmp_path / "out" / "Several.kt").read_text()
    assert '"run_$length",' in kotlin and "intArrayOf(4, 8, 16)" in kotlin and "bytes(inputIds, length)" in kotlin
    assert 'values(case, "input_ids").length()' in (tmp_path / "out" / "SeveralGoldenTest.kt").read_text()
    readme = (tmp_path / "out" / "README.md").read_text()
    assert "`SeveralCompiled` calls `run_16` alone" in readme and "the file also has" not in readme


def held_out(folder: Path, counts: list[int]) -> Path:
    rows = [row(count) for count in counts]
    Samples({name: np.concatenate([each[name] for each in rows]) for name in rows[0]}, task="text-classification").save(folder)
    return folder


def test_rows_that_fit_or_are_cut(tmp_path):
    samples = Samples.load(held_out(tmp_path / "rows", [3, 4, 5, 16] * 5))
    fitting, was_cut = rows_for(samples, 4)
    assert (len(fitting), was_cut) == (10, False)
    assert fitting.inputs["input_ids"].shape == (10, LONGEST)
    long, was_cut = rows_for(Samples.load(held_out(tmp_path / "long", [16] * 9)), 4)
    assert was_cut and (long.inputs["attention_mask"].sum(axis=1) == 4).all()


def test_every_signature_is_run(several, bare, tmp_path):
    found = run_each(several, bare, held_out(tmp_path / "rows", [3, 7, 12, 16] * 4), LENGTHS, 1)
    assert [figures.length for figures in found] == list(LENGTHS)
    assert [figures.cut for figures in found] == [True, False, False]
    assert all(figures.p50_ms > 0 and figures.same_decision and figures.same_decision.value == 1.0 for figures in found)


@pytest.fixture(scope="module")
def tagger(tmp_path_factory) -> Path:
    """Merged, with an output for each token."""
    target = tmp_path_factory.mktemp("tagger") / "merged.tflite"
    merge_lengths(singles(target.parent, lambda length: encoder(length, tokens=True)), target)
    return target


@pytest.mark.parametrize("right", [True, False])
def test_outputs_of_tokens_are_as_wide_as_the_longest_whatever_runs(tagger, right):
    model = loading.load(tagger)
    assert isinstance(model, LengthsModel)
    whole, found = model.models[LONGEST].run(row(3, right=right)), model.run(row(3, right=right))
    assert model.length == 4
    np.testing.assert_allclose(found["logits"], whole["logits"], rtol=1e-5)
    assert found["tokens"].shape == (1, LONGEST, 2)
    ran, beyond = (slice(4), slice(4, None)) if right else (slice(-4, None), slice(-4))
    np.testing.assert_allclose(found["tokens"][:, ran], whole["tokens"][:, ran], rtol=1e-5)
    assert (found["tokens"][:, beyond] == found["tokens"].min()).all()


def test_outputs_of_tokens_are_compared_where_both_lengths_have_one(tagger, tmp_path):
    rows = Samples.load(held_out(tmp_path / "rows", [3, 4, 7, 12] * 8))
    per_token = np.arange(len(rows) * LONGEST).reshape(len(rows), LONGEST)
    replace(rows, task="generic", extras={"words": per_token}).save(tmp_path / "generic")
    found = run_each(tagger, tagger, tmp_path / "generic", LENGTHS, 1)
    assert [figures.rows for figures in found] == [16, 24, 32]
    assert all(figures.agreement is None and figures.same_decision is None for figures in found)
    assert all(figures.max_rel_difference < 1e-5 and figures.error_db > 100 for figures in found)
    assert judge(Lengths(1, 0.0, found), "float32", 0.05, 20.0) is None
    noisy = Lengths(1, 0.0, (replace(found[0], error_db=12.0), *found[1:]))
    assert "run_4 differs from run_16: 12.0 dB on 16 rows, --min-db asks for 20" in (judge(noisy, "int8", 0.05, 20.0) or "")


def test_rows_of_several_samples_stay_whole(tmp_path):
    rows = Samples.load(held_out(tmp_path / "rows", [3, 16, *[3, 4] * 9]))
    windows = replace(rows, row=np.repeat(np.arange(10), 2))
    fitting, was_cut = rows_for(windows, 4)
    assert not was_cut
    assert fitting.row is not None
    assert fitting.row.tolist() == [number for number in range(1, 10) for _ in range(2)]


def test_a_signature_that_answers_otherwise_is_refused(tmp_path, tiny_bert):
    draw = {4: 0.0, 8: 0.0, 16: 0.0}
    parts = singles(tmp_path, lambda length: encoder(length, shift=draw[length]))
    # The logits of the shortest are exchanged.
    build = encoder(4)
    root = schema.ModelT.InitFromObj(schema.Model.GetRootAs(build, 0))
    weights = next(tensor.buffer for tensor in root.subgraphs[0].tensors if tensor.name == b"weights")
    values = np.asarray(root.buffers[weights].data).view(np.float32).reshape(2, -1)[::-1].copy()
    root.buffers[weights].data = values.reshape(-1).view(np.uint8)
    import flatbuffers

    builder = flatbuffers.Builder(1024)
    builder.Finish(root.Pack(builder), file_identifier=b"TFL3")
    parts[4].write_bytes(bytes(builder.Output()))
    target = tmp_path / "merged.tflite"
    merge_lengths(parts, target)
    found = Lengths(1, 0.0, run_each(target, parts[16], held_out(tmp_path / "rows", [2, 3, 4, 12] * 5), LENGTHS, 1))
    assert "run_4 decides otherwise than run_16 on 15 of 15 rows" in (judge(found, "dynamic", 0.05) or "")
    assert "run_4 differs from run_16" in (judge(found, "float32", None) or "")
    assert judge(found, "dynamic", None) is None


def test_one_other_row_of_few_is_chance():
    figures = LengthFigures("run_4", 10, proportion(9, 10), proportion(9, 10), 30.0, 0.1, 0.1, 1.0, length=4, cut=False)
    assert judge(Lengths(1, 0.0, (figures,)), "int8", 0.05) is None


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"sequence_lengths": (0, 16)}, "counts tokens"),
        ({"sequence_lengths": (-4, 16)}, "counts tokens"),
        ({"sequence_lengths": (16,)}, "one length alone"),
        ({"sequence_lengths": (32, 16)}, "the shortest first"),
        ({"sequence_lengths": (16, 16)}, "each length once"),
        ({"sequence_lengths": (16, 32), "mediapipe": True}, "one subgraph"),
        ({"sequence_lengths": (16, 32), "max_length": 128}, "leave it out"),
    ],
)
def test_lengths_that_cannot_be(settings, said):
    with pytest.raises(ConfigError, match=said):
        ConvertConfig(("float32",), **settings)


def test_integer_only_has_one_length():
    with pytest.raises(ConfigError, match="rewrites the graph for one length"):
        ConvertConfig(("int8",), data=DataSpec("x.tsv"), integer_only=True, sequence_lengths=(16, 32))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("16,256", "takes 128 tokens"),
        ("2,16", "no room for text"),
        ("16,many", "not whole numbers"),
        ("32,16", "the shortest first"),
    ],
)
def test_the_command_refuses_in_one_line(tiny_bert, tmp_path, given, said):
    found = edgekit("convert", tiny_bert, "--scheme", "float32", "--sequence-lengths", given, "--out", tmp_path)
    assert (found.code, len(found.err)) == (2, 1)
    assert said in found.err[0]


def test_a_file_with_several_lengths_is_no_source(several):
    with pytest.raises(ModelFormatError, match="convert its checkpoint with --sequence-lengths 4,8,16"):
        _check_float(several)


def test_lengths_are_for_checkpoints(parts, tmp_path):
    found = edgekit("convert", parts[16], "--scheme", "float32", "--sequence-lengths", "8,16", "--out", tmp_path / "out")
    assert (found.code, len(found.err)) == (2, 1)
    assert "is for checkpoints" in found.err[0]
