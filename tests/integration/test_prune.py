"""From the stage to the file: every adapter pruned, saved, loaded and converted; and what `edgekit prune` refuses."""

import json
import os
import shutil
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from edgekit.data.samples import Samples
from edgekit.data.sources import TextRows
from edgekit.measure.judge import outputs
from edgekit.stages.export.onnx import OnnxExport
from edgekit.stages.export.saved_model import SavedModelExport
from edgekit.stages.prune import pruning_plan
from edgekit.stages.prune.config import StructureConfig
from edgekit.stages.prune.pruning_plan import PruningPlan, Scores
from edgekit.stages.prune.surgery import PruneResult, Vocabulary, prune
from edgekit.system import artifacts
from edgekit.system.worker import Worker
from edgekit.tasks.parity import compare
from edgekit.tflite import flatbuffer
from tests import tiny
from tests.commands import PROGRAM, edgekit, environment
from tests.unit.stages.export.architectures import LENGTH, to_onnx, to_tflite
from tests.unit.stages.prune import models

# One of each form of layers, and one whose positions are counted from the padding token.
ARCHITECTURES = ("bert", "deberta-v2", "distilbert", "gpt2", "mobilebert", "roberta")
CONFIG = StructureConfig(heads=0.5, ffn=0.5, layers=1, round_to=4, samples=64, max_length=LENGTH)


def rows() -> TextRows:
    texts, labels = zip(*tiny.sentences(64), strict=True)
    return TextRows(tuple(texts), None, tuple(labels), "sentences")


@dataclass(frozen=True)
class Stage:
    """What became of one checkpoint: the largest difference of logits between what was cut in memory and what was saved and
    loaded, and, where only tokens were cut, from the checkpoint before; the padding id and vocabulary size that it loads with."""

    result: PruneResult
    loaded: float
    vocabulary_alone: float
    padding_and_size: tuple[int, int]


@dataclass(frozen=True)
class Road:
    folder: Path
    stages: dict[str, Stage | str]
    onnx: dict[str, OnnxExport | str]
    saved_models: dict[str, SavedModelExport | str]


def prune_each(tokenizer: Path, folder: Path) -> tuple[dict[str, Stage | str], dict[str, OnnxExport | str]]:
    """In a child: every architecture's checkpoint pruned as `pruned` in its folder, and exported to ONNX."""
    stages: dict[str, Stage | str] = {}
    for name in ARCHITECTURES:
        try:
            stages[name] = _prune(name, tokenizer, folder / name)
        except Exception as error:
            stages[name] = f"{type(error).__name__}: {error}"
    sound = {name: folder / name / "pruned" for name, stage in stages.items() if isinstance(stage, Stage)}
    return stages, {name: to_onnx({name: pruned}, folder / name / "rows")[name] for name, pruned in sound.items()}


def _prune(name: str, tokenizer: Path, room: Path) -> Stage:
    import torch

    from edgekit.data.text import encode_text
    from edgekit.models import architectures
    from edgekit.models.checkpoint import Checkpoint
    from edgekit.models.weights import load_model

    source = room / "whole"
    shutil.copytree(tokenizer, source, ignore=shutil.ignore_patterns("model.safetensors", "config.json"))
    pieces = json.loads((tokenizer / "tokenizer.json").read_text())["model"]["vocab"]
    models.build(name, vocab_size=len(pieces), pad_token_id=0, num_labels=2).save_pretrained(source)

    def logits(model: Any, folder: Path) -> Any:
        samples = encode_text(rows(), folder, LENGTH, ("input_ids", "attention_mask"))
        return models.logits(model, {key: torch.from_numpy(array).long() for key, array in samples.inputs.items()})

    inline, checkpoint = models.Inline(), Checkpoint.read(source)
    result = prune(checkpoint, rows(), room / "pruned", CONFIG, vocabulary_of=Vocabulary(), worker=inline)
    prune(
        checkpoint,
        rows(),
        room / "tokens",
        StructureConfig(samples=32, max_length=LENGTH),
        vocabulary_of=Vocabulary(),
        worker=inline,
    )
    made = pruning_plan.read(room / "pruned")
    in_memory = load_model(checkpoint)
    architectures.keep(in_memory, made.layers)
    assert made.tokens is not None
    architectures.keep_tokens(in_memory, made.tokens)
    loaded, fewer = (load_model(Checkpoint.read(room / name)) for name in ("pruned", "tokens"))
    encode_text(rows(), room / "pruned", LENGTH, ("input_ids", "attention_mask")).save(room / "rows")
    return Stage(
        result,
        float((logits(loaded, room / "pruned") - logits(in_memory, room / "pruned")).abs().max()),
        float((logits(fewer, room / "tokens") - logits(load_model(checkpoint), source)).abs().max()),
        (loaded.config.pad_token_id, loaded.config.vocab_size),
    )


@pytest.fixture(scope="module")
def road(tiny_bert: Path, tmp_path_factory: pytest.TempPathFactory) -> Road:
    folder = tmp_path_factory.mktemp("road")
    worker = Worker(timeout_s=300)
    stages, exported = worker.run(prune_each, tiny_bert, folder).value
    sound = [name for name, export in exported.items() if not isinstance(export, str)]
    return Road(folder, stages, exported, worker.run(convert_each, folder, sound).value)


def convert_each(folder: Path, names: list[str]) -> dict[str, SavedModelExport | str]:
    return {name: to_tflite({name: folder / name / "pruned"}, folder / name / "rows")[name] for name in names}


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_what_is_loaded_is_what_was_cut(road: Road, name: str) -> None:
    stage = road.stages[name]
    assert isinstance(stage, Stage), stage
    assert stage.loaded == 0
    assert stage.vocabulary_alone < 1e-6
    found = stage.result
    assert len(found.layers) == 2
    assert found.heads_before == 12
    assert sum(found.heads) == 4
    assert sum(map(sum, found.ffn)) == found.units_before // 3
    assert found.parameters < found.parameters_before
    assert found.encoder_parameters < 0.5 * found.encoder_parameters_before
    assert stage.padding_and_size == (0, found.tokens)
    assert found.tokens < found.tokens_before


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_pruned_checkpoint_becomes_a_tflite_that_agrees(road: Road, name: str) -> None:
    exported, saved = road.onnx[name], road.saved_models[name]
    assert isinstance(exported, OnnxExport), exported
    assert exported.parity.max_rel < 1e-5
    assert exported.mask is not None
    assert exported.mask > -1e5
    assert not isinstance(saved, str), saved
    file = road.folder / name / "pruned" / "float32.tflite"
    reference = Samples.load(file.with_name("reference")).inputs
    given = {name: values[:16] for name, values in outputs(file, road.folder / name / "rows").items()}
    assert list(given) == list(reference) == ["logits"]
    assert compare(given["logits"], reference["logits"]).max_rel < 1e-3
    assert (given["logits"].argmax(1) == reference["logits"].argmax(1)).all()
    content = flatbuffer.read(file)
    assert (content.flex_ops, content.custom_ops) == ((), ())
    assert set(content.signature(content.entry()).input_names) == {"input_ids", "attention_mask"}


def test_the_folder_says_what_is_left(road: Road, tiny_bert: Path) -> None:
    folder = road.folder / "bert" / "pruned"
    stage = road.stages["bert"]
    assert isinstance(stage, Stage)
    config = json.loads((folder / "config.json").read_text())
    assert config["num_hidden_layers"] == 2
    assert config["vocab_size"] == stage.result.tokens
    made = pruning_plan.read(folder)
    assert config["edgekit_pruning"] == {
        "layers": [part.layer for part in made.layers],
        "heads": [list(part.heads) for part in made.layers],
        "ffn": [[len(units) for units in part.ffn] for part in made.layers],
    }
    manifest = json.loads((folder / "edgekit.json").read_text())
    assert manifest["parents"] == {"whole": made.checkpoint_sha256}
    assert manifest["measured"]["heads"] == list(stage.result.heads)


# What cannot be pruned ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def place(tiny_bert: Path, tiny_tsv: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoints, rows and files that are wrong in one way each."""
    folder = tmp_path_factory.mktemp("wrong")
    lines = tiny_tsv.read_text().splitlines()
    for name in ("bert", "albert"):
        shutil.copytree(tiny_bert, folder / name)
    config = json.loads((folder / "albert" / "config.json").read_text())
    (folder / "albert" / "config.json").write_text(json.dumps({**config, "model_type": "albert"}))
    (folder / "good.tsv").write_text("\n".join(lines) + "\n")
    (folder / "outside.tsv").write_text("\n".join([*lines, "a film\t7"]) + "\n")
    (folder / "unlabelled.tsv").write_text("\n".join(line.split("\t")[0] for line in lines) + "\n")
    (folder / "few.txt").write_text("[PAD]\n[UNK]\n[CLS]\nfilm\n")
    (folder / "blocker").write_text("a file where a folder should be")
    scores = Scores("gradient", ((1.0,) * 4,) * 2, (((1.0,) * 128,),) * 2)
    (folder / "other").mkdir()
    pruning_plan.write(PruningPlan("0" * 64, scores, ()), folder / "other")
    return folder


PRUNE = ("prune", "bert", "--out", "new/out", "--dataset", "good.tsv")
WRONG: list[tuple[int, str, tuple[str, ...]]] = [
    (2, "nothing to prune", PRUNE),
    (2, "heads is 1", (*PRUNE, "--heads", "1")),
    (2, "sparsity is 1.5", ("prune", "bert", "--out", "new/out", "--sparsity", "1.5")),
    (2, "--sparsity and --method make single weights zero", (*PRUNE, "--heads", "0.5", "--sparsity", "0.5")),
    (2, "--dataset is missing", ("prune", "bert", "--out", "new/out", "--heads", "0.5")),
    (2, "--keep-tokens goes with --vocab", (*PRUNE, "--heads", "0.5", "--keep-tokens", "few.txt")),
    (2, "steps goes with recovery", (*PRUNE, "--heads", "0.5", "--steps", "2")),
    (2, "--target-size 8: give a number with MB", (*PRUNE, "--target-size", "8")),
    (2, "leave --heads and --ffn out", (*PRUNE, "--target-latency", "0.5x", "--heads", "0.5")),
    (2, "few.txt: would drop the special token '[SEP]'; add [SEP]", (*PRUNE, "--vocab", "few.txt")),
    (2, "is the plan of another checkpoint", (*PRUNE, "--plan", "other")),
    (2, "a plan says", (*PRUNE, "--plan", "other", "--heads", "0.5")),
    (2, "max_length is 500 but bert takes 128", (*PRUNE, "--heads", "0.5", "--max-length", "500")),
    (3, "'albert': edgekit cannot prune it; it can prune bert, camembert", ("prune", "albert", *PRUNE[2:], "--heads", "0.5")),
    (3, "row 64 (from 0) has 7, the head's 2 classes", (*PRUNE[:-1], "outside.tsv", "--heads", "0.5")),
    (3, "by gradients needs labelled rows", (*PRUNE[:-1], "unlabelled.tsv", "--heads", "0.5")),
    (3, "no label column", (*PRUNE[:-1], "unlabelled.tsv", "--heads", "0.5", "--recover-epochs", "1")),
    (6, "cannot be written", ("prune", "bert", "--out", "blocker/out", *PRUNE[4:], "--heads", "0.5")),
    (6, "bert: exists already", ("prune", "bert", "--out", "bert", *PRUNE[4:], "--heads", "0.5")),
]


def _snapshot(folder: Path) -> dict[str, tuple[int, int]]:
    return {str(item.relative_to(folder)): (item.stat().st_size, item.stat().st_mtime_ns) for item in folder.rglob("*")}


def test_tokens_that_are_used_need_no_labels(place: Path, tmp_path: Path) -> None:
    out = tmp_path / "cut"
    said = edgekit(*PRUNE[:3], out, "--dataset", "unlabelled.tsv", "--vocab", "used", "--importance", "activation", folder=place)
    assert (said.code, (out / "model.safetensors").is_file()) == (0, True)


@pytest.mark.parametrize(("code", "cause", "arguments"), WRONG, ids=[" ".join(case[2][5:])[:50] or case[1] for case in WRONG])
def test_what_is_wrong_is_told_in_one_line_and_nothing_is_written(
    place: Path, code: int, cause: str, arguments: tuple[str, ...]
) -> None:
    before = _snapshot(place)
    said = edgekit(*arguments, "--quiet", folder=place)
    assert (said.code, said.out) == (code, "")
    assert len(said.err) == 1
    assert said.err[0].startswith("edgekit: error: ")
    assert cause in said.err[0]
    assert _snapshot(place) == before


def test_a_killed_run_leaves_what_was_there(place: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with artifacts.published(out, "checkpoint") as draft:
        shutil.copytree(place / "bert", draft.path)
    before = _snapshot(out)
    arguments = ("prune", "bert", "--heads", "0.5", "--dataset", "good.tsv", "--out", str(out), "--overwrite")
    process = subprocess.Popen(
        [*PROGRAM, *arguments],
        cwd=place,
        env=environment({"TMPDIR": str(tmp_path)}),
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    deadline = time.monotonic() + 30
    while not psutil.Process(process.pid).children():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    children = psutil.Process(process.pid).children(recursive=True)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait(timeout=30)
    assert not psutil.wait_procs(children, timeout=5)[1]
    assert _snapshot(out) == before
    room = tmp_path / ".out.prune"
    assert not [path for path in room.iterdir() if path.name.startswith("pruned")]
    with artifacts.claimed(room):
        pass
