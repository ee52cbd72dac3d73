"""A whole recipe: fine-tune, convert, measure, report; and again from what it wrote."""

import json
from pathlib import Path

import pytest

from edgekit.errors import ConfigError, DatasetError, OutputError
from edgekit.workflows import recipe, run
from edgekit.workflows.recipe import Recipe
from tests.commands import edgekit

SCHEMES = ("float32", "dynamic", "int8")


def _recipe(folder: Path, bert: Path, rows: Path, **changed: str) -> Path:
    lines = {
        "schemes": '["float32", "dynamic", "int8"]',
        "data": f'"{rows}"',
        "max_length": "16",
        "evaluation_data": f'"{rows}"',
    }
    convert = "\n".join(f"{key} = {value}" for key, value in (lines | changed).items())
    file = folder / "tiny.toml"
    file.write_text(
        f'name = "tiny"\nout = "out"\n[model]\nsource = "{bert}"\n'
        f'[finetune]\ndata = "{rows}"\nepochs = 2\nbatch_size = 8\nlearning_rate = 1e-3\nmax_length = 16\n'
        f"[convert]\nmax_drop = 1.0\n{convert}\n[benchmark]\nruns = 6\nwarmup = 1\nrounds = 2\n"
    )
    return file


@pytest.fixture(scope="module")
def folder(tiny_bert: Path, tiny_tsv: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the recipe lies and has been run once."""
    place = tmp_path_factory.mktemp("recipe")
    finished = run.run(recipe.load(_recipe(place, tiny_bert, tiny_tsv)))
    assert [row.scheme for row in finished.report.rows] == list(SCHEMES)
    return place


def _loaded(folder: Path) -> Recipe:
    return recipe.load(folder / "tiny.toml")


def test_everything_that_was_asked_for_lies_there(folder: Path) -> None:
    names = {item.name for item in (folder / "out").iterdir() if not item.name.startswith(".")}
    files = {f"tiny_{scheme}{suffix}" for scheme in SCHEMES for suffix in (".tflite", ".json")}
    assert {"tiny", "recipe.toml", "report.html", "report.md", "report.json", "tokenizer.json", *files} <= names


def test_the_report_tells_training_in_words_and_data_by_its_name(folder: Path) -> None:
    report = json.loads((folder / "out" / "report.json").read_text())
    training = report["training"]
    assert all(isinstance(value, str) for value in training.values())
    assert training["Accuracy"].endswith(" %)")
    assert training["Classes"] == "negative, positive"
    assert training["Epoch 2"].startswith("training loss ")
    assert "samples/s" in training["Throughput"]
    assert report["data"] == "64 rows of sentences.tsv"
    assert report["reference"].endswith("tiny_float32.tflite")
    page = (folder / "out" / "report.html").read_text()
    assert training["Accuracy"] in page
    (curve,) = report["curves"]
    assert [step for step, _, _ in curve["epochs"]] == [int(training["Steps"]) // 2, int(training["Steps"])]
    assert "Fine-tuning: learning curve" in page


def test_a_second_run_needs_overwrite_and_the_written_recipe_is_the_same_run(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = folder / "out" / "recipe.toml"
    assert recipe.load(written) == _loaded(folder)
    before = {file.name: file.read_bytes() for file in (folder / "out").glob("*.*")}
    refused = edgekit("run", written, "--quiet")
    assert refused.code == 6
    assert len(refused.err) == 1
    assert {file.name: file.read_bytes() for file in (folder / "out").glob("*.*")} == before
    again = edgekit("run", written, "--overwrite", "--quiet", "--json")
    assert (again.code, again.err) == (0, [])
    assert [row["scheme"] for row in json.loads(again.out)["rows"]] == list(SCHEMES)
    # The same seed on the same machine: the same model, to the byte.
    assert (folder / "out" / "tiny_dynamic.tflite").read_bytes() == before["tiny_dynamic.tflite"]


def test_pruning_and_a_distillation_follow_the_fine_tuning(tiny_bert: Path, tiny_tsv: Path, tmp_path: Path) -> None:
    file = _recipe(tmp_path, tiny_bert, tiny_tsv)
    with file.open("a") as stream:
        stream.write(f'[prune]\ndata = "{tiny_tsv}"\nheads = 0.5\nmax_length = 16\n[prune.vocabulary]\n')
        stream.write(f'[distill]\nteacher = "{tiny_bert}"\ndata = "{tiny_tsv}"\nepochs = 1\nmax_length = 16\n')
    plan = recipe.load(file)
    assert plan.finetune is not None and plan.prune is not None and plan.distill is not None
    file.write_text(recipe.dump(plan))
    assert recipe.load(file) == plan
    run.check(plan, overwrite=False)
    places = run.folders(plan)
    assert [place.name for place in places.values()] == ["tiny_finetuned", "tiny_pruned", "tiny"]
    source, trained = run.train(plan)
    assert source == str(places["distill"])
    assert list(trained) == ["Fine-tuning", "Distillation"]
    (cut,) = json.loads((places["prune"] / "edgekit.json").read_text())["measured"]["steps"]
    assert (sum(cut["heads"]), cut["tokens"] < cut["tokens_before"]) == (4, True)
    parents = json.loads((plan.out / "tiny" / "edgekit.json").read_text())["parents"]
    assert {"tiny_pruned", "bert"} <= parents.keys()
    told = run.training(trained)
    assert told["Distillation"]["Learned from"] == "soft targets, labels, hidden states"
    assert told["Distillation"]["Against the teacher"].endswith(" points")
    tuned = trained["Fine-tuning"]
    curve = run.curve("Fine-tuning", tuned)
    assert [step for step, _, _ in curve.epochs] == [tuned.steps // 2, tuned.steps]
    assert curve.training[-1][0] == tuned.steps
    with pytest.raises(OutputError, match="tiny_finetuned: exists already"):
        run.check(plan, overwrite=False)


@pytest.mark.parametrize(
    ("changed", "error", "cause"),
    [
        ({"data": '"nowhere.tsv"'}, DatasetError, "nowhere.tsv: does not exist"),
        ({"max_length": "129"}, ConfigError, "takes 128 tokens"),
    ],
)
def test_what_a_later_stage_lacks_is_found_before_the_first(
    tiny_bert: Path, tiny_tsv: Path, tmp_path: Path, changed: dict[str, str], error: type[Exception], cause: str
) -> None:
    plan = recipe.load(_recipe(tmp_path, tiny_bert, tiny_tsv, **changed))
    with pytest.raises(error, match=cause):
        run.run(plan)
    assert not plan.out.exists()


def test_an_old_report_is_not_replaced_unasked(tiny_bert: Path, tiny_tsv: Path, tmp_path: Path) -> None:
    plan = recipe.load(_recipe(tmp_path, tiny_bert, tiny_tsv))
    plan.out.mkdir()
    (plan.out / "report.md").write_text("mine")
    with pytest.raises(OutputError, match=r"report\.md: exists already"):
        run.run(plan)
    assert (plan.out / "report.md").read_text() == "mine"
