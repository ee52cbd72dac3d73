"""The TF Lite guide's tables and techniques, measured: sizes, latencies, accuracy, training for int8, sparsity, clusters, advice.

python benchmarks/guide.py --shared ../shared [--part table1 …] [--work FOLDER]

Parts: table1 (four models at random weights, every scheme), accuracy (four CNNs with their weights, beside official files),
optimize (ResNet-8 trained quantization-aware, sparse and clustered), qat (MiniLM trained quantization-aware), advise (three
models). With --work, what was made is kept and a second run goes on from there.
"""

import json
from pathlib import Path

import cnns
import numpy as np
from bench import CONFIG, LENGTH, Bench, renamed, run_parts
from checks import Answer, ask
from turns import Entry, measure, ratio

from edgekit.measure.judge import gzip_size
from edgekit.spec import DataSpec
from edgekit.stages.quantize.schemes import SCHEMES
from edgekit.workflows.guide.results import GuideRun
from edgekit.workflows.guide.table import markdown
from edgekit.workflows.inputs import encode_for, manifest_of

TRAINING_ROWS, SHORTEST = 10_000, 9


def table1(bench: Bench) -> None:
    checks, out = bench.checks, bench.room("table1") / "random"
    answer = None
    if not (out / "guide.json").is_file():
        answer = ask(["guide", "run", "--table", "1", "--weights", "random", "--out", out])
        for failure in answer.failures:
            checks.holds(failure, False)
    run = GuideRun.from_json((out / "guide.json").read_text(encoding="utf-8"))
    if answer is not None:
        checks.at_most("Table 1 with random weights, every scheme and QAT, wall", answer.cost.seconds / 60, 12, "min")
        checks.at_most("Table 1, largest process", answer.cost.peak_bytes / 1e9, 5, "GB")
    for model in run.models:
        base = model.row("float32")
        for scheme, percent in (("float32", 1), ("int8", 10)):
            row, published = model.row(scheme), model.published.size_mb[scheme]
            away = 100 * abs(row.size_bytes / 1e6 / published - 1) if row else float("inf")
            checks.at_most(f"{model.title}, {scheme}, size against the guide's {published} MB", away, percent, "%")
        timed = {
            row.scheme: row.latency.p50_ms / base.latency.p50_ms for row in model.rows if row.latency and base and base.latency
        }
        checks.holds(
            f"{model.title}: every scheme was timed ({', '.join(f'{name} {value:.2f}×' for name, value in timed.items())})",
            set(SCHEMES) <= set(timed),
        )
        checks.at_most(f"{model.title}, int8, p50 against float32", timed.get("int8", float("inf")), 1, "×")
    checks.say()
    for line in markdown(run).splitlines():
        checks.say(line)


def accuracy(bench: Bench) -> None:
    for model in cnns.models(bench.shared, bench.room("accuracy", "data")):
        data: tuple[str | Path, ...] = ("--representative-data", model.calibration, "--evaluation-data", model.judged)
        ours = bench.convert(model.path, bench.room("accuracy", model.name, "edgekit"), SCHEMES, *data)
        found = bench.beside_official(model, "accuracy", ours)
        if found is None:
            continue
        for scheme in SCHEMES:
            if scheme != "float32":
                bench.limit(f"{model.name}, ", found, scheme, 0.5)
        for file in model.official:
            bench.checks.say(f"- beside {file.name}: {found[file.name].lost:.2f} points lost, {ratio(found, file.name):.2f}×")
        bench.show(found, f"{model.name}, {model.described}, two threads")


def optimize(bench: Bench) -> None:
    """Each technique in a run of its own, so that --work can go on; post-training int8 of the same model beside them."""
    checks, room, data = bench.checks, bench.room("optimize"), bench.shared / "data/cifar10_jpeg"
    model = bench.shared / "models/pretrainedResnet.h5"
    train, test = data / "train.npz", data / "test.npz"
    ours = bench.convert(model, room / "plain", ("float32", "int8"), "--representative-data", train, "--evaluation-data", test)
    entries = {**ours, "official int8": _official(bench, ours["float32"].file, room)}
    for technique in ("qat", "sparsity", "clustering"):
        out = room / technique
        files = {scheme: out / f"{model.stem}_{technique}_{scheme}.tflite" for scheme in ("float32", "int8")}
        told = ""
        if not all(file.is_file() for file in files.values()):
            rows: list[str | Path] = ["--dataset", train, "--evaluation-data", test]
            answer = ask(["optimize", model, *rows, "--technique", technique, "--out", out, "--overwrite"])
            told = "; ".join(answer.failures)
            checks.say(f"- {technique}: trained, converted and measured in {answer.cost.seconds:.0f} s")
        for scheme, file in files.items():
            name = f"{technique} {scheme}"
            entries[name] = Entry(name, file, "float32", None if file.is_file() else told)
    samples = room / "samples"
    if not samples.is_dir():
        encode_for(ours["float32"].file, DataSpec(test), room).save(samples)
    found = measure(list(entries.values()), samples, CONFIG, bench.room("optimize", "outputs"))
    plain, aware = found["int8"], found["qat int8"]
    checks.holds(
        f"QAT int8 is at least as accurate as post-training int8: {aware.lost:.2f} points lost against {plain.lost:.2f}",
        aware.lost <= plain.lost,
    )
    whole = gzip_size(ours["float32"].file)
    for name, least in (("sparsity float32", 1.6), ("clustering float32", 3.0)):
        bench.limit("", found, name, 1.0)
        smaller = whole / gzip_size(entries[name].file) if found[name].failure is None else 0
        checks.holds(f"{name}: gzip {smaller:.2f}× smaller than the float file's (at least {least:g}×)", smaller >= least)
    bench.show(found, "ResNet-8, 2000 CIFAR-10 test images that no training saw, two threads")
    checks.say("| file | gzip, bytes |")
    checks.say("| --- | --- |")
    for name, item in found.items():
        if item.failure is None:
            checks.say(f"| {name} | {gzip_size(item.entry.file):,} |")


def _official(bench: Bench, ours: Path, room: Path) -> Entry:
    official = bench.shared / "reference/pretrainedResnet_quant.tflite"
    return Entry("official int8", cnns.with_input_of(ours, official, room / official.name), "float32")


def qat(bench: Bench) -> None:
    """Distilled from itself with int8 simulated, on rows of the training set; dev is only reported."""
    checks, room = bench.checks, bench.room("qat")
    trained, rows = room / "trained", room / "train.tsv"
    if not rows.is_file():
        header, *lines = bench.train.read_text(encoding="utf-8").splitlines()
        long = [line for line in lines if len(line.split("\t")[0].split()) >= SHORTEST]
        drawn = np.random.default_rng(0).permutation(len(long))[:TRAINING_ROWS]
        rows.write_text("\n".join([header, *(long[index] for index in drawn)]) + "\n", encoding="utf-8")
    if not trained.is_dir():
        models = ["--teacher", bench.minilm, "--student", bench.minilm, "--dataset", rows, "--out", trained]
        training = ["--qat", "--epochs", "1", "--batch-size", "32", "--learning-rate", "1e-4", "--max-length", str(LENGTH)]
        answer = ask(["distill", *models, *training, "--freeze-embeddings"])
        if answer.failures:
            checks.holds(f"distill --qat: {'; '.join(answer.failures)}", False)
            return
        checks.say(f"- trained in {answer.cost.seconds / 60:.1f} min, largest process {answer.cost.peak_bytes / 1e9:.1f} GB")
    data = ("--representative-data", bench.train, "--max-length", str(LENGTH))
    before = bench.convert(bench.minilm, room / "before", ("float32", "int8"), *data)
    after = bench.convert(trained, room / "after", ("float32", "int8"), *data)
    entries = [
        *before.values(),
        renamed(after["float32"], "QAT float32"),
        renamed(after["int8"], "QAT int8", "QAT float32"),
    ]
    samples = room / "dev"
    if not samples.is_dir():
        encode_for(before["float32"].file, DataSpec(bench.dev), room).save(samples)
    found = measure(entries, samples, CONFIG, bench.room("qat", "outputs"))
    bench.limit("MiniLM, ", found, "QAT int8", 0.3)
    original, aware = found["float32"].accuracy, found["QAT int8"].accuracy
    if original is not None and aware is not None:
        checks.at_most(
            "MiniLM, QAT int8, accuracy lost against the original's float32", 100 * (original.value - aware.value), 0.3, "points"
        )
    if after["int8"].file.is_file():
        checks.say(f"- {manifest_of(after['int8'].file)['measured']['plan']['reason']}")
    bench.show(found, "MiniLM-L6, SST-2 dev (872 rows), sequence 64, two threads")


def advise(bench: Bench) -> None:
    checks, room = bench.checks, bench.room("advise")
    found = {model.name: model for model in cnns.models(bench.shared, room / "data")}
    v2, kws = found["MobileNet V2"], found["KWS"]
    asked: dict[str, tuple[str, Path, Path, Path]] = {
        "MiniLM on a CPU": ("cpu", bench.minilm, bench.train, bench.dev),
        "MobileNet V2 on a CPU": ("cpu", v2.path, v2.calibration, v2.judged),
        "KWS on a microcontroller": ("microcontroller", kws.path, kws.calibration, kws.judged),
    }
    answers = {}
    for name, (target, model, seen, judged) in asked.items():
        kept = room / f"{name}.json"
        if not kept.is_file():
            answer: Answer = ask(["advise", model, "--target", target, "--data", seen, "--evaluation-data", judged])
            if answer.failures:
                checks.holds(f"advise, {name}: {'; '.join(answer.failures)}", False)
                continue
            kept.write_text(json.dumps(answer.told, ensure_ascii=False), encoding="utf-8")
            checks.say(f"- {name}: converted, measured and advised in {answer.cost.seconds:.0f} s")
        told = json.loads(kept.read_text(encoding="utf-8"))["recommendation"]
        answers[name] = told["title"]
        checks.say(f"- {name}: {told['title']}: {told['reason']}")
    checks.holds(f"three different answers: {', '.join(answers.values())}", len(set(answers.values())) == len(asked))


if __name__ == "__main__":
    run_parts(
        __doc__, "The TF Lite guide, measured", "guide", {part.__name__: part for part in (table1, accuracy, optimize, qat, advise)}
    )
