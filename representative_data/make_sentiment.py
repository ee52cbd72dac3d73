"""Write sentiment_train.tsv and sentiment_dev.tsv from the hand-written clauses, frames and sentences beside this file.

The result is the same on every machine: `python representative_data/make_sentiment.py` changes nothing unless a source did.
"""

import random
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent
ROWS = {"train": 1200, "dev": 300}
SIDES = ("negative", "positive")  # their place is the label
CLAUSE_SHARE = 0.2  # of the slots; the others take a subject with an opinion
LONGEST = 40  # words in a sentence
SEED = 20


def main() -> None:
    parts = tomllib.loads((FOLDER / "sentiment_clauses.toml").read_text(encoding="utf-8"))
    written = tomllib.loads((FOLDER / "sentiment_handwritten.toml").read_text(encoding="utf-8"))
    for split, count in ROWS.items():
        rng = random.Random(f"{SEED} {split}")
        rows = []
        for label, side in enumerate(SIDES):
            sentences = _sentences(parts[split], written[split][side], side, count // len(SIDES), rng)
            rows += [f"{sentence}\t{label}" for sentence in sentences]
        rng.shuffle(rows)
        text = "\n".join(["sentence\tlabel", *rows, ""])
        (FOLDER / f"sentiment_{split}.tsv").write_text(text, encoding="utf-8")


def _sentences(source: Mapping[str, Any], written: Sequence[str], side: str, count: int, rng: random.Random) -> list[str]:
    """`count` different sentences of one label: the hand-written ones, then composed ones, each domain in turn."""
    sentences = dict.fromkeys(written)
    domains = list(source["clauses"])
    while len(sentences) < count:
        domain = domains[len(sentences) % len(domains)]
        sentence = _compose(rng.choice(source["frames"][side]), source, domain, rng)
        if len(sentence.split()) <= LONGEST:
            sentences[sentence] = None
    return list(sentences)


def _compose(frame: str, source: Mapping[str, Any], domain: str, rng: random.Random) -> str:
    subjects = iter(rng.sample(source["subjects"][domain], 4))
    slots = {}
    for side in SIDES:
        clauses, opinions = rng.sample(source["clauses"][domain][side], 2), rng.sample(source["opinions"][side], 2)
        for slot, clause, opinion in zip((side[:3], f"{side[:3]}2"), clauses, opinions, strict=True):
            slots[slot] = clause if rng.random() < CLAUSE_SHARE else f"{next(subjects)} {opinion}"
    return ". ".join(part[0].upper() + part[1:] for part in frame.format(**slots).split(". ")) + "."


if __name__ == "__main__":
    main()
