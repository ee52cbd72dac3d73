"""Which architectures of text models go which way for which task: tiny random checkpoints of each, in every scheme.

python benchmarks/coverage.py [--architecture bert] [--task fill-mask] [--again] [--minutes 30]

Each finished row stands in benchmarks/results/coverage.json, and rows that stand there are not run again without --again.
docs/coverage.md is written from it after every row."""

import argparse
import json
import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from coverage_cases import CASES, Row, input_names, largest_difference, transformers_answers
from tiny_checkpoints import ARCHITECTURES, CLASSES, LENGTH, all_pairs, save

import edgekit
from edgekit.errors import EdgekitError
from edgekit.spec import DataSpec
from edgekit.system import rooms
from edgekit.system.worker import Worker
from edgekit.workflows.convert.config import ConvertConfig

STORE = Path(__file__).resolve().parent / "results" / "coverage.json"
PAGE = Path(__file__).resolve().parents[1] / "docs" / "coverage.md"
SCHEMES = ("float32", "float16", "dynamic", "int8", "int16x8")
INTEGERS = "int8, integers alone"
TOLERANCE = 1e-3
# What optimum-cli export tflite had, architecture by architecture.
_OPTIMUM = (
    *("albert", "bert", "camembert", "convbert", "deberta", "deberta-v2", "distilbert", "electra", "flaubert", "mobilebert"),
    *("mpnet", "roberta", "roformer", "xlm", "xlm-roberta"),
)
_ROWS, _JUDGED = 160, 64
_SEARCH_SECONDS = 3.0
_CAUSE_LENGTH = 240


def in_optimum(name: str, task: str) -> bool:
    return name in _OPTIMUM and not (task == "multiple-choice" and name.startswith("deberta"))


def scheme_row(result: Any) -> Row:
    """What is told of one scheme."""
    measurement = result.measurement
    row: Row = {"refused": _shortened(result.refused)} if result.refused else {}
    if measurement is None or measurement.failure:
        return row
    agreement = measurement.agreement
    cosine = [score.value for score in (measurement.metric, *measurement.scores) if score is not None and "cosine" in score.metric]
    row |= {"agreement": agreement.count / agreement.total} if agreement else {}
    row |= {"cosine": cosine[0]} if cosine else {}
    return row | ({"db": measurement.error_db} if measurement.error_db is not None else {})


def _shortened(cause: str) -> str:
    """Without the folders of this run, and in one line."""
    return re.sub(r"; kept as \S+|/\S+/", "", " ".join(cause.split()))[:_CAUSE_LENGTH]


def run(name: str, task: str, room: Path) -> Row:
    """One row of the table."""
    folder, out, expected = room / name, room / "out", room / "expected"
    started, worker = time.monotonic(), Worker()
    worker.run(save, folder, name, task)
    case = CASES[task]
    rows = case.rows(_ROWS, 0)
    data = DataSpec({column: [row[column] for row in rows] for column in case.columns})
    options: dict[str, Any] = {"data": data, "evaluation_samples": _JUDGED, "representative_samples": 64, "max_length": LENGTH}
    options |= {"search_seconds": _SEARCH_SECONDS, "task": task}
    try:
        conversion = edgekit.convert(str(folder), out, ConvertConfig(schemes=SCHEMES, **options))
    except EdgekitError as error:
        return {"cause": _shortened(error.message.replace(f"{folder}: ", ""))}
    row: Row = {"road": str(conversion.float_model.road), "schemes": {one.scheme: scheme_row(one) for one in conversion.results}}
    float_file = out / f"{name}_float32.tflite"
    if float_file.is_file():
        try:
            names = worker.run(input_names, float_file).value
            worker.run(transformers_answers, folder, task, case.rows(2 * LENGTH, 1), expected, names)
            row["parity"], row["lengths"] = worker.run(largest_difference, float_file, expected, task).value
        except EdgekitError as error:
            # Some models do not run on a text without padding.
            row["cause"] = f"not compared: {_shortened(error.message)}"
        try:
            integers = ConvertConfig(schemes=("int8",), integer_only=True, **options)
            row["schemes"][INTEGERS] = scheme_row(edgekit.convert(str(float_file), room / "integers", integers).results[0])
        except EdgekitError as error:
            row["schemes"][INTEGERS] = {"refused": _shortened(error.message.replace(f"{float_file}: ", ""))}
    return row | {"seconds": time.monotonic() - started}


def _cell(row: Row, scheme: str) -> str:
    figures = row.get("schemes", {}).get(scheme)
    if figures is None:
        return "–"
    parts = [f"{100 * figures['agreement']:.0f} %"] if "agreement" in figures else []
    parts += [f"cos {figures['cosine']:.4f}"] if "cosine" in figures else []
    parts += [f"{figures['db']:.0f} dB"] if "db" in figures else []
    text = ", ".join(parts) or "–"
    return f"({text})" if "refused" in figures else text


def _counts(which: str, pairs: Sequence[tuple[str, str]], rows: Mapping[str, Row]) -> list[str]:
    """How many of some pairs go which way: made and run, and published by the usual limits."""
    done = [rows["/".join(pair)] for pair in pairs if "/".join(pair) in rows]
    cells = [[row.get("schemes", {}).get(scheme, {}) for row in done] for scheme in (*SCHEMES[1:], INTEGERS)]
    ran = [sum(bool(cell.keys() - {"refused"}) for cell in column) for column in cells]
    published = [sum(bool(cell) and "refused" not in cell for cell in column) for column in cells]
    true = sum(row.get("parity", 1.0) <= TOLERANCE for row in done)
    return [
        f"| {len(pairs)} {which} | made and run | {true} | {' | '.join(map(str, ran))} |",
        f"| | published | {true} | {' | '.join(map(str, published))} |",
    ]


def page(rows: Mapping[str, Row], pairs: Sequence[tuple[str, str]]) -> str:
    """docs/coverage.md."""
    lines = [
        "# Architectures, tasks, schemes",
        "",
        "`benchmarks/coverage.py` writes this page: tiny checkpoints with random weights (two layers, 64 wide, 16 tokens), each",
        "converted for each task that transformers has a class for. *From PyTorch* is the largest difference of the float32 file",
        "from transformers' own answers to the same texts **without padding**, on rows of every length, relative to how far these",
        f"answers lie from their mean; {TOLERANCE:g} is allowed. Each scheme has the share of float32's decisions (of vectors the",
        "mean cosine) and the error against float32. In brackets: not published, by the usual limits. Random weights decide by",
        "hairs: what a scheme loses of a trained model is another figure, which each conversion measures.",
        "",
        "| pairs | | true to PyTorch | " + " | ".join((*SCHEMES[1:], INTEGERS)) + " |",
        "| --- | --- " + "| --- " * (len(SCHEMES) + 1) + "|",
        *_counts("that `optimum-cli export tflite` had", [pair for pair in pairs if in_optimum(*pair)], rows),
        *_counts("beyond them", [pair for pair in pairs if not in_optimum(*pair)], rows),
        "",
    ]
    missing = [f"{name} × {task}" for name, task in pairs if f"{name}/{task}" not in rows]
    for task in CLASSES:
        done = {name: rows[f"{name}/{task}"] for name, each in pairs if each == task and f"{name}/{task}" in rows}
        if not done:
            continue
        lines += [f"## {task}", "", f"| architecture | road | from PyTorch | {' | '.join((*SCHEMES[1:], INTEGERS))} |"]
        lines += ["| --- " * (3 + len(SCHEMES)) + "|"]
        for name, row in done.items():
            parity = f"{row['parity']:.0e}" if "parity" in row else "–"
            parity = parity if row.get("parity", 0) <= TOLERANCE else f"**{parity}**"
            cells = [_cell(row, scheme) for scheme in (*SCHEMES[1:], INTEGERS)]
            lines.append(f"| {name} | {row.get('road', '–')} | {parity} | {' | '.join(cells)} |")
        causes = [
            f"- {name}{f', {scheme}' if scheme else ''}: {cause}"
            for name, row in done.items()
            for scheme, cause in (
                ("", row.get("cause", "")),
                *((scheme, cells.get("refused", "")) for scheme, cells in row.get("schemes", {}).items()),
            )
            if cause
        ]
        lines += ["", *causes, *([""] if causes else [])]
    if missing:
        lines += ["## Not run yet", "", f"{', '.join(missing)}.", ""]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--architecture", action="append", choices=list(ARCHITECTURES))
    parser.add_argument("--task", action="append", choices=list(CLASSES))
    parser.add_argument("--again", action="store_true", help="run rows that stand there already")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="start no row after that")
    arguments = parser.parse_args()
    started = time.monotonic()
    pairs = Worker().run(all_pairs).value
    rows: dict[str, Row] = json.loads(STORE.read_text()) if STORE.is_file() else {}
    # What optimum had comes first.
    for name, task in sorted(pairs, key=lambda pair: not in_optimum(*pair)):
        key = f"{name}/{task}"
        selected = name in (arguments.architecture or ARCHITECTURES) and task in (arguments.task or CLASSES)
        if not selected or task not in CASES or (key in rows and not arguments.again):
            continue
        if time.monotonic() - started > 60 * arguments.minutes:
            break
        with rooms.temporary("coverage") as room:
            rows[key] = run(name, task, room)
        print(key, json.dumps(rows[key]), flush=True)
        STORE.write_text(json.dumps(dict(sorted(rows.items())), indent=1) + "\n")
        PAGE.write_text(page(rows, pairs))
    PAGE.write_text(page(rows, pairs))


if __name__ == "__main__":
    main()
