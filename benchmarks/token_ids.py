"""Whether ids are those of transformers' AutoTokenizer: hard strings and rows of data, for tokenizers of every kind.

python benchmarks/token_ids.py [--data FOLDER]

FOLDER holds sst2/dev.tsv, conll2003/dev.jsonl, xquad/es_train.jsonl and quijote/train.txt; what is absent is left out. Texts alone
and in pairs, cut to 24 tokens and padded, with masks and segments; the tokenizers are trained on the spot.
"""

import argparse
import csv
import json
import sys
from pathlib import Path

import numpy as np
from checks import Checks

from edgekit.data.sources import TextRows
from edgekit.data.text import encode_text
from edgekit.system import rooms
from edgekit.system.worker import Worker

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT))
from tests.unit.data import tokenizers  # noqa: E402

STRINGS, EACH = 1000, 500


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    rows = data_rows(parser.parse_args().data)
    checks = Checks("Token ids")
    texts = (*tokenizers.hard_texts(STRINGS), *rows)
    pairs = texts[::-1]
    checks.say(f"{STRINGS} hard strings and {len(rows)} rows, alone and in pairs, at {tokenizers.LENGTH} tokens.\n")
    with rooms.temporary("tokenizers") as room:
        Worker().run(tokenizers.write_all, room)
        Worker().run(tokenizers.write_expected, room, texts, pairs)
        for name in tokenizers.TOKENIZERS:
            with np.load(room / name / tokenizers.EXPECTED) as expected:
                wrong = sum(
                    differing(room / name, texts, second, expected, kind) for kind, second in (("texts", None), ("pairs", pairs))
                )
            checks.at_most(f"{name}: of {2 * len(texts)} texts and pairs, those with other ids, masks or segments", wrong, 0, "")
    checks.finish("token_ids")


def differing(
    folder: Path, texts: tuple[str, ...], pairs: tuple[str, ...] | None, expected: np.lib.npyio.NpzFile, kind: str
) -> int:
    arrays = {key.partition(" ")[2]: expected[key] for key in expected if key.startswith(kind)}
    samples = encode_text(TextRows(texts, pairs, None, kind), folder, tokenizers.LENGTH, list(arrays))
    return int(np.any([(samples.inputs[key] != array).any(axis=1) for key, array in arrays.items()], axis=0).sum())


def data_rows(folder: Path) -> tuple[str, ...]:
    """The first rows of each data set that is there."""
    rows: list[str] = []
    if (file := folder / "sst2" / "dev.tsv").is_file():
        with file.open(encoding="utf-8") as lines:
            rows += [row["sentence"] for row in csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE)][:EACH]
    if (file := folder / "conll2003" / "dev.jsonl").is_file():
        rows += [" ".join(json.loads(line)["tokens"]) for line in file.read_text(encoding="utf-8").splitlines()[:EACH]]
    for file in (folder / "xquad" / "es_train.jsonl", folder / "xquad" / "es_dev.jsonl"):
        if file.is_file():
            rows += [json.loads(line)["question"] for line in file.read_text(encoding="utf-8").splitlines()[: EACH // 2]]
    if (file := folder / "quijote" / "train.txt").is_file():
        rows += file.read_text(encoding="utf-8").splitlines()[: 4 * EACH - len(rows)]
    return tuple(rows)


if __name__ == "__main__":
    main()
