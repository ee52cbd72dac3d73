"""int8 against float32 and against other tools: accuracy lost, p50, and what it costs to get there.

python benchmarks/int8.py --shared ../shared [--part minilm …] [--work FOLDER]

Parts: minilm (with the peers), memory (of calibration), cnn (with official quantized files), encoders (fine-tuned from
scratch), documented (`edgekit diagnose` on a file made the documented way). With --work, what was made is kept and a second
run goes on from there.
"""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import children
import cnns
import peers
from bench import CONFIG, LENGTH, Bench, renamed, run_parts
from checks import Answer, ask
from turns import Entry, measure, ratio

from edgekit.data.representative import COUNT, draw
from edgekit.errors import EdgekitError
from edgekit.spec import DataSpec
from edgekit.stages.export.saved_model import export_saved_model
from edgekit.stages.quantize.converter import convert_float
from edgekit.system.serial import to_json
from edgekit.system.worker import Worker
from edgekit.workflows.inputs import encode_for, manifest_of

TRAINING_ROWS = 12_000


def made(name: str, file: Path, base: str, make: Callable[[], Any]) -> Entry:
    """The entry of a peer's file, made unless it is there; a peer that fails is a line of the table too."""
    try:
        if not file.is_file():
            make()
        return Entry(name, file, base)
    except EdgekitError as error:
        return Entry(name, file, base, error.message)


def minilm_files(bench: Bench) -> dict[str, Entry]:
    data = ("--representative-data", bench.train, "--max-length", str(LENGTH))
    five = bench.convert(bench.minilm, bench.room("minilm", "edgekit"), ("float32", "dynamic", "int16x8"), *data)
    mixed = bench.convert(bench.minilm, bench.room("minilm", "int8"), ("int8",), *data)
    integer = bench.convert(bench.minilm, bench.room("minilm", "integer"), ("int8",), *data, "--integer-only")
    return {**five, "int8": mixed["int8"], "int8 --integer-only": renamed(integer["int8"], "int8 --integer-only")}


def as_trained(bench: Bench, float32: Path) -> tuple[Path, Path, Path]:
    """The checkpoint as ONNX, SavedModel and float32 .tflite with its attention mask as it is, and calibration rows, saved."""
    room = bench.room("minilm", "documented")
    rows, onnx_file, saved, model = room / "rows", room / "float32.onnx", room / "saved_model", room / "float32.tflite"
    worker = Worker()
    if not rows.is_dir():
        # The same draw as `edgekit convert` makes.
        encode_for(float32, DataSpec(bench.train, samples=COUNT), room).save(rows)
    if not onnx_file.is_file():
        worker.run(peers.export_as_trained, bench.minilm, rows, onnx_file)
    if not model.is_file():
        hop = worker.run(export_saved_model, onnx_file, None, saved, foreign=False, max_length=LENGTH).value
        worker.run(convert_float, saved, model, LENGTH, names=hop.names, outputs=hop.outputs)
    return rows, onnx_file, saved


def documented_files(bench: Bench, float32: Path) -> dict[str, Entry]:
    rows, onnx_file, saved = as_trained(bench, float32)
    room = rows.parent
    run = Worker().run
    theirs = "ONNX Runtime float32"
    jobs: tuple[tuple[str, str, str, Callable[[Path], Any]], ...] = (
        ("TFLiteConverter int8", "converter", "float32", lambda file: run(peers.tflite_converter, saved, rows, file)),
        (
            "ai-edge-quantizer static_wi8_ai8",
            "quantizer",
            "float32",
            lambda file: run(peers.ai_edge_quantizer, room / "float32.tflite", rows, file),
        ),
        ("ONNX Runtime static int8", "static", theirs, lambda file: run(peers.onnx_runtime_static, onnx_file, rows, file)),
        ("ONNX Runtime dynamic int8", "dynamic", theirs, lambda file: run(peers.onnx_runtime_dynamic, onnx_file, file)),
    )
    found = {theirs: Entry(theirs, onnx_file, theirs)}
    for name, stem, base, make in jobs:
        file = room / f"{stem}{'.onnx' if base == theirs else '.tflite'}"
        found[name] = made(name, file, base, partial(make, file))
    return found


def minilm(bench: Bench) -> None:
    checks = bench.checks
    ours = minilm_files(bench)
    theirs = documented_files(bench, ours["float32"].file)
    samples = bench.work / "minilm" / "dev"
    if not samples.is_dir():
        encode_for(ours["float32"].file, DataSpec(bench.dev), bench.work).save(samples)
    found = measure([*ours.values(), *theirs.values()], samples, CONFIG, bench.room("minilm", "outputs"))
    bench.limit("MiniLM, ", found, "int8", 0.5)
    checks.at_most("MiniLM, int8, p50 against float32", ratio(found, "int8"), 0.33, "×")
    bench.limit("MiniLM, ", found, "int8 --integer-only", 1.5)
    bench.limit("MiniLM, ", found, "int16x8", 0.1)
    for name in theirs:
        if name != "ONNX Runtime float32":
            told = f"{found[name].lost:.1f} points lost, {ratio(found, name):.2f}×"
            checks.say(f"- beside {name}: {told}; int8 --integer-only {ratio(found, 'int8 --integer-only'):.2f}×")
    cost = bench.work / "minilm" / "int8" / "cost.txt"
    if cost.is_file():
        seconds, peak = map(float, cost.read_text().split())
        checks.at_most("MiniLM, convert --scheme int8 with its search, wall", seconds, 240, "s")
        checks.at_most("MiniLM, convert --scheme int8 with its search, largest process", peak / 1e9, 4.0, "GB")
    bench.show(found, "MiniLM-L6, SST-2 dev (872 rows), sequence 64, two threads, all timed in turns")


def memory(bench: Bench) -> None:
    """Peak of the calibrating child with few and with many rows."""
    peaks = {}
    for count in (16, 1600):
        out = bench.room("memory", str(count))
        data = ("--representative-data", bench.train, "--representative-samples", str(count), "--max-length", str(LENGTH))
        entry = bench.convert(bench.minilm, out, ("int8",), *data)["int8"]
        if entry.failure is not None:
            bench.checks.holds(f"calibration on {count} rows: {entry.failure}", False)
            return
        steps = manifest_of(entry.file)["measured"]["steps"]
        peaks[count] = max(step["peak_bytes"] for step in steps if "calibrat" in step["name"])
        bench.checks.say(f"- calibration on {count} rows: {peaks[count] / 1e6:.0f} MB at its peak")
    bench.checks.at_most("calibration memory, 1600 rows against 16", peaks[1600] / peaks[16], 1.1, "×")


def cnn(bench: Bench) -> None:
    for model in cnns.models(bench.shared, bench.room("cnn", "data")):
        room = bench.room("cnn", model.name)
        options: Sequence[str | Path] = ("--representative-data", model.calibration, "--evaluation-data", model.judged)
        ours = bench.convert(model.path, room / "edgekit", ("float32", "int8", "int16x8"), *options)
        integer = bench.convert(model.path, room / "integer", ("int8",), *options, "--integer-only")
        ours["int8 --integer-only"] = renamed(integer["int8"], "int8 --integer-only")
        found = bench.beside_official(model, "cnn", ours)
        if found is None:
            continue
        bench.limit(f"{model.name}, ", found, "int8 --integer-only", 0.5)
        bench.limit(f"{model.name}, ", found, "int16x8", 0.2)
        for name in (file.name for file in model.official):
            for scheme in ("int8", "int8 --integer-only"):
                told = f"{found[scheme].lost:.2f} points lost against {found[name].lost:.2f}"
                kept = found[scheme].lost <= found[name].lost
                bench.checks.holds(f"{model.name}, {scheme} is at least as accurate as {name}: {told}", kept)
        bench.show(found, f"{model.name}, {model.described}, two threads")


def encoders(bench: Bench) -> None:
    header, *lines = bench.train.read_text(encoding="utf-8").splitlines()
    rows = bench.room("encoders") / "train.tsv"
    rows.write_text("\n".join([header, *(lines[index] for index in draw(len(lines), TRAINING_ROWS, 0))]) + "\n", encoding="utf-8")
    for kind in children.ENCODERS:
        room = bench.room("encoders", kind)
        fresh, tuned = room / "fresh", room / "tuned"
        if not fresh.is_dir():
            Worker().run(children.write_encoder, kind, fresh, bench.minilm)
        if not tuned.is_dir():
            training = ("--epochs", "4", "--batch-size", "32", "--learning-rate", "5e-4", "--max-length", "32")
            answer = ask(
                ["finetune", "--model", fresh, "--dataset", rows, "--evaluation-data", bench.dev, "--out", tuned, *training]
            )
            if answer.failures:
                bench.checks.holds(f"{kind}, finetune: {'; '.join(answer.failures)}", False)
                continue
            bench.checks.say(f"- {kind}: fine-tuned in {answer.cost.seconds:.0f} s")
        data = ("--representative-data", bench.train, "--max-length", str(LENGTH))
        ours = bench.convert(tuned, room / "edgekit", ("float32", "int8"), *data)
        if failure := ours["float32"].failure:
            bench.checks.holds(f"{kind}, float32: {failure}", False)
            continue
        samples = room / "dev"
        if not samples.is_dir():
            encode_for(ours["float32"].file, DataSpec(bench.dev), room).save(samples)
        found = measure(list(ours.values()), samples, CONFIG, bench.room("encoders", kind, "outputs"))
        bench.limit(f"{kind}, ", found, "int8", 1.0)
        bench.show(found, f"{kind}, small, from scratch, SST-2 dev (872 rows), two threads")


def documented(bench: Bench) -> None:
    float32 = bench.convert(
        bench.minilm,
        bench.room("minilm", "edgekit"),
        ("float32",),
        "--representative-data",
        bench.train,
        "--max-length",
        str(LENGTH),
    )["float32"]
    file = documented_files(bench, float32.file)["TFLiteConverter int8"].file
    # The documented road leaves no tokenizer beside the file.
    answer: Answer = ask(
        ["diagnose", file, "--against", file.parent / "float32.tflite", "--data", bench.dev, "--tokenizer", bench.minilm]
    )
    findings = (answer.told or {}).get("findings") or [{}]
    first = " ".join(to_json(findings[0]).split())
    told = "; ".join(answer.failures) or str(findings[0].get("cause", first))
    bench.checks.holds(f"diagnose names the attention mask first: {told}", not answer.failures and "mask" in first)


if __name__ == "__main__":
    run_parts(
        __doc__,
        "int8 against float32 and against other tools",
        "int8",
        {part.__name__: part for part in (minilm, memory, cnn, encoders, documented)},
    )
