"""The page of `edgekit demo` on SST-2 sentences in headless Chromium: its labels against those of `edgekit predict`.

python benchmarks/demo.py --shared ../shared FILE.tflite …

FILEs are classifiers of the shared MiniLM. Needs `pip install playwright`, Chromium, and LiteRT.js (`edgekit demo` says how).
"""

import argparse
import csv
import json
import statistics
import subprocess
import sys
from pathlib import Path

from browser import ask_page, demo
from checks import Checks

from edgekit.measure.machine import machine

_SENTENCES = 50


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--shared", type=Path, required=True)
    parser.add_argument("--litertjs", type=Path)
    parser.add_argument("--pictures", type=Path, help="folder for a screenshot of each")
    given = parser.parse_args()
    with (given.shared / "data/sst2/dev.tsv").open(encoding="utf-8") as stream:
        texts = [row["sentence"] for row in csv.DictReader(stream, delimiter="\t", quoting=csv.QUOTE_NONE)][:_SENTENCES]
    checks = Checks("The demo's page in headless Chromium")
    runtime = ("--litertjs", given.litertjs) if given.litertjs else ()
    rows = []
    for file in given.files:
        said = subprocess.run(
            [sys.executable, "-m", "edgekit", "predict", str(file), "-", "--json"],
            input="".join(f"{text}\n" for text in texts),
            capture_output=True,
            text=True,
            check=True,
        )
        wanted = [json.loads(line)["label"] for line in said.stdout.splitlines()]
        with demo(file, *runtime) as url:
            found = ask_page(url, texts, given.pictures and given.pictures / f"{file.stem}.png")
        same = sum(row["browser"] == label for row, label in zip(found, wanted, strict=True))
        checks.holds(f"{file.name}: the browser's label is that of `edgekit predict` on {same} of {len(texts)}", same == len(texts))
        medians = [statistics.median(row[f"{card}_ms"] for row in found) for card in ("browser", "predict")]
        rows.append(f"| {file.name} | {same} of {len(texts)} | {medians[0]:.1f} | {medians[1]:.1f} |")
    checks.say()
    checks.say(f"The first {len(texts)} sentences of SST-2 dev, {machine()}")
    checks.say()
    checks.say("| file | same label | browser, median ms of an inference | predict, median ms with tokens |")
    checks.say("| --- | --- | --- | --- |")
    for row in rows:
        checks.say(row)
    checks.finish("demo")


if __name__ == "__main__":
    main()
