"""Every format of `edgekit export` side by side: size on disk, latency and accuracy of the shared MiniLM on SST-2 dev.

python benchmarks/formats.py --shared ../shared [--work FOLDER]
"""

import argparse
import contextlib
import tempfile
from pathlib import Path

from checks import Checks, ask, edgekit

# SavedModel has no runtime that edgekit measures. bitsandbytes takes minutes for these rows on a CPU.
NAMES = {"float16": "float16", "int8": "int8", "torchscript": "ts/model.pt", "onnx": "onnx/model.onnx", "ort": "ort/model.ort"}
DROP = 1.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, required=True)
    parser.add_argument("--work", type=Path, help="Keep the exports here, and use those that are there.")
    arguments = parser.parse_args()
    source, data = arguments.shared / "models/minilm-l6-sst2", arguments.shared / "data/sst2/dev.tsv"
    checks = Checks("MiniLM-L6 on SST-2 dev in the formats of edgekit export, batch 1, sequence 64, two threads")
    with contextlib.nullcontext(arguments.work) if arguments.work else tempfile.TemporaryDirectory() as work:
        found = {kind: Path(work) / name for kind, name in NAMES.items()}
        for kind, path in found.items():
            if not path.exists():
                edgekit(["export", source, "--format", kind, "--out", path, "--dataset", data, "--quiet"])
        table = Path(work) / "formats.md"
        named = [part for name in ("checkpoint", *found) for part in ("--name", name)]
        answer = ask(["compare", source, *found.values(), *named, "--dataset", data, "--max-length", "64", "--out", table])
        if answer.code:
            raise SystemExit("; ".join(answer.failures))
        for name, row in zip(found, answer.told["rows"][1:], strict=True):
            checks.at_most(f"{name}, accuracy lost", 100 * row["drop"]["value"], DROP, "points")
        checks.say()
        checks.say(table.read_text(encoding="utf-8"))
    checks.finish("formats")


if __name__ == "__main__":
    main()
