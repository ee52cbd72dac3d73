"""The stage: the same from the same seed, again from its plan, on what was pruned before; and steps that go on after a kill."""

import dataclasses
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from edgekit.data.sources import TextRows
from edgekit.errors import ConfigError, DatasetError, EdgekitError
from edgekit.models.architectures import Kept
from edgekit.models.checkpoint import Checkpoint
from edgekit.models.weights import load_model
from edgekit.spec import DataSpec
from edgekit.stages.prune import pruning_plan
from edgekit.stages.prune.config import Importance, StructureConfig
from edgekit.stages.prune.pruning_plan import PruningPlan, Scores
from edgekit.stages.prune.surgery import PruneResult, Vocabulary, prune
from edgekit.stages.train.config import DistillConfig, FinetuneConfig
from edgekit.system import artifacts
from edgekit.system.worker import Worker
from edgekit.workflows import prune as workflow
from edgekit.workflows.prune import PruneConfig
from tests import tiny
from tests.unit.stages.prune import models

CONFIG = StructureConfig(heads=0.5, ffn=0.5, samples=32, max_length=16)


def rows(count: int = 64) -> TextRows:
    texts, labels = zip(*tiny.sentences(count), strict=True)
    return TextRows(tuple(texts), None, tuple(labels), "sentences")


@dataclass(frozen=True)
class Chain:
    """What several runs on one checkpoint left: config.json by folder, what was refused, and what was compared."""

    configs: dict[str, dict[str, Any]]
    refused: dict[str, str]
    padding: tuple[int | None, float]
    largest: tuple[int, int]


def _run_all(checkpoint: Path, room: Path) -> Chain:
    from edgekit.workflows.finetune import finetune

    inline = models.Inline()

    def run(name: str, source: Path = checkpoint, config: StructureConfig = CONFIG, **settings: Any) -> Path:
        prune(Checkpoint.read(source), rows(), room / name, config, worker=inline, **settings)
        return room / name

    once = run("once", vocabulary_of=Vocabulary())
    run("twice", vocabulary_of=Vocabulary())
    run("random 0", config=replace(CONFIG, importance=Importance.RANDOM))
    run("random 1", config=replace(CONFIG, importance=Importance.RANDOM, seed=1))
    run("by plan", config=StructureConfig(), use=once)
    quick = FinetuneConfig(data=tiny.data(64), epochs=1, batch_size=16, max_length=16)
    finetune(once, room / "tuned", quick)
    again = run("again", room / "tuned", replace(CONFIG, layers=1))
    finetune(again, room / "tuned again", quick)

    refused = {}
    whole = pruning_plan.read(once)
    for name, made in _wrong_plans(whole).items():
        pruning_plan.write(made, room)
        try:
            run(f"refused {name}", use=room)
        except EdgekitError as error:
            refused[name] = f"{type(error).__name__}: {error}"
    foreign = room / "foreign"
    shutil.copytree(checkpoint, foreign)
    content = json.loads((foreign / "tokenizer.json").read_text())
    content["added_tokens"].append({**content["added_tokens"][0], "id": len(content["model"]["vocab"]), "content": "<beyond>"})
    (foreign / "tokenizer.json").write_text(json.dumps(content))
    try:
        run("refused beyond", foreign, vocabulary_of=Vocabulary())
    except EdgekitError as error:
        refused["beyond"] = f"{type(error).__name__}: {error}"
    configs = {folder.name: json.loads((folder / "config.json").read_text()) for folder in room.iterdir() if folder.is_dir()}
    return Chain(configs, refused, _padding(checkpoint, room / "gpt2"), (len(whole.tokens or ()), max(whole.tokens or ())))


def _wrong_plans(whole: PruningPlan) -> dict[str, PruningPlan]:
    first, second = whole.layers
    return {
        "none": replace(whole, layers=()),
        "double": replace(whole, layers=(first, first)),
        "backwards": replace(whole, layers=(second, first)),
        "far": replace(whole, layers=(first, replace(second, layer=7))),
        "wide": replace(whole, layers=(first, replace(second, heads=(0, 4)))),
        "same head": replace(whole, layers=(first, replace(second, heads=(1, 1)))),
        "no unit": replace(whole, layers=(first, replace(second, ffn=((),)))),
        "two FFNs": replace(whole, layers=(first, replace(second, ffn=second.ffn * 2))),
        "no token": replace(whole, tokens=()),
        "strange token": replace(whole, tokens=(*(whole.tokens or ()), 10_000)),
        "mixed tokens": replace(whole, tokens=(whole.tokens or ())[::-1]),
    }


def _padding(tokenizer: Path, folder: Path) -> tuple[int | None, float]:
    """The padding id of a GPT-2 whose config names none, and how far its logits of a row move when padding is added."""
    import torch

    shutil.copytree(tokenizer, folder, ignore=shutil.ignore_patterns("model.safetensors", "config.json"))
    models.build("gpt2", pad_token_id=None, bos_token_id=None, eos_token_id=None).save_pretrained(folder)
    model = load_model(Checkpoint.read(folder))
    row = torch.tensor([[5, 6, 7, 8]])
    alone = models.logits(model, {"input_ids": row, "attention_mask": torch.ones_like(row)})
    padded = torch.nn.functional.pad(row, (0, 3)).repeat(2, 1)
    both = models.logits(model, {"input_ids": padded, "attention_mask": (padded > 0).long()})
    # One that no setting names is known by what it is usually called.
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"}))
    assert load_model(Checkpoint.read(folder)).config.pad_token_id == model.config.pad_token_id
    return model.config.pad_token_id, float((both - alone).abs().max())


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("chain") / "out"


@pytest.fixture(scope="module")
def chain(tiny_bert: Path, room: Path) -> Chain:
    room.mkdir()
    return Worker(timeout_s=250).run(_run_all, tiny_bert, room).value


def _same(one: Path, other: Path, *names: str) -> bool:
    return all((one / name).read_bytes() == (other / name).read_bytes() for name in names)


def test_the_same_run_gives_the_same_bytes(chain: Chain, room: Path) -> None:
    names = ("model.safetensors", "config.json", "tokenizer.json", pruning_plan.FILE_NAME)
    assert _same(room / "once", room / "twice", *names)
    assert not _same(room / "random 0", room / "random 1", pruning_plan.FILE_NAME)
    assert pruning_plan.read(room / "random 0").layers != pruning_plan.read(room / "random 1").layers


def test_a_plan_gives_what_it_was_made_with(chain: Chain, room: Path) -> None:
    assert _same(room / "once", room / "by plan", "model.safetensors", "config.json", "tokenizer.json")


def test_pruned_tuned_pruned_tuned(chain: Chain) -> None:
    once, tuned, again, last = (chain.configs[name] for name in ("once", "tuned", "again", "tuned again"))
    assert tuned["edgekit_pruning"] == once["edgekit_pruning"]
    assert last["edgekit_pruning"] == again["edgekit_pruning"]
    before, after = once["edgekit_pruning"], again["edgekit_pruning"]
    assert before["layers"] == [0, 1]
    assert sum(map(len, before["heads"])) == 4
    assert len(after["layers"]) == again["num_hidden_layers"] == 1
    place = before["layers"].index(after["layers"][0])
    assert set(after["heads"][0]) <= set(before["heads"][place])
    assert after["ffn"][0][0] <= before["ffn"][place][0]
    assert last["vocab_size"] == once["vocab_size"] == chain.largest[0] <= chain.largest[1]


@pytest.mark.parametrize("name", ["none", "double", "backwards"])
def test_layers_are_each_once_and_in_order(chain: Chain, name: str) -> None:
    assert chain.refused[name].startswith("ConfigError: pruning_plan.json: its layers are none, or not each once")


@pytest.mark.parametrize("name", ["far", "wide", "same head", "no unit", "two FFNs"])
def test_a_plan_keeps_what_there_is(chain: Chain, name: str) -> None:
    assert "keeps heads or units that the model does not have" in chain.refused[name]


def test_tokens_of_a_plan_are_the_tokenizers_in_order(chain: Chain) -> None:
    assert "would drop the special token '[PAD]'" in chain.refused["no token"]
    assert "keeps the token id 10000" in chain.refused["strange token"]
    assert "in order" in chain.refused["mixed tokens"]


def test_a_tokenizer_with_more_tokens_than_embeddings_is_told(chain: Chain) -> None:
    assert chain.refused["beyond"].startswith("CheckpointError")
    assert "the model embeds" in chain.refused["beyond"]


def test_what_was_refused_left_nothing(chain: Chain, room: Path) -> None:
    assert not [path for path in room.iterdir() if path.name.startswith("refused")]
    assert "\n" not in "".join(chain.refused.values())


def test_a_gpt2_pads_with_its_tokenizers_token(chain: Chain) -> None:
    number, apart = chain.padding
    assert number == 0
    assert apart < 1e-5


# Several labels ---------------------------------------------------------------------------------------------------------

TAGS = ("praise", "blame", "film")


def _tagged(count: int, **options: Any) -> DataSpec:
    texts = [text for text, _ in tiny.sentences(count)]
    words = (tiny.POSITIVE, tiny.NEGATIVE, ("film", "plot"))
    flags = [[int(any(word in text.split() for word in each)) for text in texts] for each in words]
    return DataSpec({"sentence": texts, **dict(zip(TAGS, flags, strict=True))}, **options)


def test_a_checkpoint_of_several_labels_is_pruned_by_all_of_them(tmp_path: Path) -> None:
    source = Worker(timeout_s=100).run(tiny.model, tmp_path / "tags", labels=TAGS, problem_type="multi_label_classification").value
    config = PruneConfig(heads=0.5, samples=32, max_length=16, data=_tagged(48, label_columns=TAGS))
    found = workflow.prune(source, tmp_path / "out", config)
    assert sum(found.steps[-1].heads) == 4
    assert Checkpoint.read(tmp_path / "out").settings == Checkpoint.read(source).settings
    for columns, words in ((("blame",), "no label column for praise, film"), ((), None)):
        data = _tagged(48, label_columns=columns) if words else tiny.data(48)
        with pytest.raises(DatasetError, match=words or "one label column .*3 labels \\(praise, blame, film\\).*--label-column"):
            workflow.prune(source, tmp_path / "none", replace(config, data=data))
    assert not (tmp_path / "none").exists()
    unlabelled = replace(config, importance=Importance.ACTIVATION, data=tiny.data(48))
    assert sum(workflow.prune(source, tmp_path / "by activation", unlabelled).steps[-1].heads) == 4


# Steps, without a framework -------------------------------------------------------------------------------------------

SCORES = Scores("gradient", ((1.0, 2.0),), (((1.0, 2.0),),))
RECOVERY: dict[str, Any] = {"recovery": DistillConfig(epochs=1), "steps": 2, "data": tiny.data(4)}


@dataclass
class Fakes:
    """In place of the stages: folders with a plan and a manifest, a note of what was asked for, and a stop before `dies_in`."""

    made: list[tuple[str, float, bool]]
    dies_in: str = ""

    def prune(self, model: Checkpoint, rows: Any, out: Path, config: StructureConfig, **settings: Any) -> None:
        self._make(out, config.heads, settings["vocabulary_of"] is not None)
        measured = PruneResult((0,), (1,), ((1,),), *range(8))
        (out / "edgekit.json").write_text(json.dumps({"measured": dataclasses.asdict(measured)}))
        pruning_plan.write(PruningPlan(model.name, SCORES, (Kept(0, (0,) if out.name == "pruned_2" else (0, 1), ((0,),)),)), out)

    def distill(self, student: Path, out: Path, config: Any, **_: Any) -> str:
        assert config.data == RECOVERY["data"]
        self._make(out, 0.0, False)
        return out.name

    def _make(self, out: Path, share: float, vocabulary: bool) -> None:
        if out.name == self.dies_in:
            raise KeyboardInterrupt
        with artifacts.staged(out) as partial:
            partial.mkdir()
            (partial / "edgekit.json").write_text("{}")
            (partial / "config.json").write_text('{"model_type": "bert"}')
        self.made.append((out.name, round(share, 4), vocabulary))


@pytest.fixture
def fakes(monkeypatch: pytest.MonkeyPatch) -> Fakes:
    found = Fakes([])
    monkeypatch.setattr("edgekit.stages.prune.surgery.prune", found.prune)
    monkeypatch.setattr(workflow, "distill", found.distill)
    return found


@pytest.fixture
def source(tmp_path: Path) -> Path:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text('{"model_type": "bert"}')
    return tmp_path / "model"


def test_steps_remove_the_same_share_of_what_is_left(fakes: Fakes, source: Path, tmp_path: Path) -> None:
    config = PruneConfig(heads=0.75, ffn=0.75, vocabulary=Vocabulary(), **RECOVERY)
    found = workflow.prune(source, tmp_path / "out", config)
    assert fakes.made == [
        ("pruned_1", 0.5, True),
        ("recovered_1", 0.0, False),
        ("pruned_2", 0.5, False),
        ("recovered_2", 0.0, False),
    ]
    assert len(found.steps) == 2
    assert str(found.recovery) == "recovered_2"
    assert pruning_plan.read(tmp_path / "out").layers == (Kept(0, (0,), ((0,),)),)
    assert pruning_plan.read(tmp_path / "out").checkpoint_sha256 == "model"
    assert sorted(path.name for path in tmp_path.iterdir() if path.name != "out") == ["model"]


def test_a_stopped_run_goes_on_after_its_last_whole_step(fakes: Fakes, source: Path, tmp_path: Path) -> None:
    def run(heads: float = 0.75) -> None:
        workflow.prune(source, tmp_path / "out", PruneConfig(heads=heads, **RECOVERY))

    fakes.dies_in = "pruned_2"
    with pytest.raises(KeyboardInterrupt):
        run()
    assert not (tmp_path / "out").exists()
    fakes.dies_in, fakes.made = "recovered_2", []
    with pytest.raises(KeyboardInterrupt):
        run()
    assert [name for name, *_ in fakes.made] == ["pruned_2"]
    fakes.made = []
    with pytest.raises(KeyboardInterrupt):
        run(heads=0.5)
    assert [name for name, *_ in fakes.made] == ["pruned_1", "recovered_1", "pruned_2"]
    fakes.dies_in, fakes.made = "", []
    run(heads=0.5)
    assert [name for name, *_ in fakes.made] == ["recovered_2"]
    assert (tmp_path / "out" / pruning_plan.FILE_NAME).is_file()


def test_other_files_of_tokens_start_anew(fakes: Fakes, source: Path, tmp_path: Path) -> None:
    listed = tmp_path / "tokens.txt"

    def run() -> None:
        workflow.prune(source, tmp_path / "out", PruneConfig(vocabulary=Vocabulary(listed), **RECOVERY))

    fakes.dies_in = "recovered_2"
    for content in ("a\n", "b\n"):
        listed.write_text(content)
        fakes.made = []
        with pytest.raises(KeyboardInterrupt):
            run()
        assert [name for name, *_ in fakes.made] == ["pruned_1", "recovered_1", "pruned_2"]


def test_a_run_stopped_before_training_leaves_nothing(fakes: Fakes, source: Path, tmp_path: Path) -> None:
    fakes.dies_in = "pruned_1"
    with pytest.raises(KeyboardInterrupt):
        workflow.prune(source, tmp_path / "new" / "out", PruneConfig(heads=0.5, data=tiny.data(4)))
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("settings", [{"ffn": 0.5}, {"vocabulary": Vocabulary()}, {"target": workflow.Target(1, "MB")}])
def test_a_plan_goes_with_nothing_else(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"plan\.json: a plan says itself what stays"):
        PruneConfig(use=Path("plan.json"), **settings)


@pytest.mark.parametrize(
    ("text", "units", "value"), [("0.5x", ("x", "ms"), (0.5, "x")), (" 5MS ", ("x", "ms"), (5, "ms")), ("8mb", ("MB",), (8, "MB"))]
)
def test_targets_are_read(text: str, units: tuple[str, ...], value: tuple[float, str]) -> None:
    assert workflow.Target.parse("--target", text, units) == workflow.Target(*value)


@pytest.mark.parametrize("text", ["", "x", "0x", "-1x", "1.2.3x", "5", "5s", "nanx", "8MB"])
def test_another_target_is_told(text: str) -> None:
    with pytest.raises(ConfigError, match="--target-latency .*: give a number with x or ms, such as 0.5x"):
        workflow.Target.parse("--target-latency", text, ("x", "ms"))


@pytest.mark.parametrize(
    "value", [lambda share: 10 - 8 * share, lambda share: 2 + 8 * (1 - share) ** 2, lambda share: 10 - 8 * share**3]
)
def test_a_search_ends_near_its_limit_within_seven_measurements(value: Callable[[float], float]) -> None:
    tried: list[float] = []

    def measure(share: float) -> float:
        tried.append(share)
        return value(share)

    share = workflow.smallest_share(measure, 5.0)
    assert share is not None and 4.5 <= value(share) <= 5.0
    assert len(tried) <= 7


def test_a_search_tells_what_is_met_already_and_what_cannot_be_met() -> None:
    assert workflow.smallest_share(lambda share: 10 - 8 * share, 10.0) == 0
    assert workflow.smallest_share(lambda share: 10 - 8 * share, 1.0) is None
