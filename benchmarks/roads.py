"""Which road from a checkpoint is quickest and truest: tiny text classifiers of every architecture at hand, by each road.

python benchmarks/roads.py [--only bert --only roberta]
"""

import argparse
import json
import math
from pathlib import Path
from typing import Any

from checks import Checks, ask

from edgekit.models.source import Kind
from edgekit.system import rooms
from edgekit.system.worker import Worker
from edgekit.workflows.convert.bridge import ROADS

_WORDS = ("the", "a", "film", "story", "actor", "scene", "was", "is", "and", "very", "good", "bad", "warm", "dull", "great", "cold")
_LENGTH = 16
_SIZES = {"num_labels": 2, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128}
# What an architecture calls its sizes, or needs besides.
_ARCHITECTURES: dict[str, dict[str, Any]] = {
    "albert": {"embedding_size": 32},
    "bert": {},
    "camembert": {},
    "convbert": {"embedding_size": 64},
    "deberta": {"relative_attention": True, "pos_att_type": "c2p|p2c"},
    "deberta-v2": {"relative_attention": True, "pos_att_type": "c2p|p2c", "position_buckets": 8, "conv_kernel_size": 3},
    "distilbert": {"dim": 64, "n_layers": 2, "n_heads": 4, "hidden_dim": 128},
    "electra": {"embedding_size": 32},
    "ernie": {},
    "flaubert": {"emb_dim": 64, "n_layers": 2, "n_heads": 4},
    "funnel": {
        "block_sizes": [1, 1],
        "d_model": 64,
        "n_head": 4,
        "d_head": 16,
        "d_inner": 128,
        "num_decoder_layers": 1,
        "num_hidden_layers": None,
    },
    "gpt2": {"n_embd": 64, "n_layer": 2, "n_head": 4},
    "megatron-bert": {},
    "mobilebert": {"embedding_size": 32, "intra_bottleneck_size": 32, "true_hidden_size": 32},
    "modernbert": {},
    "mpnet": {},
    "nystromformer": {"num_landmarks": 4, "segment_means_seq_len": _LENGTH},
    "roberta": {},
    "roformer": {"embedding_size": 64},
    "squeezebert": {"embedding_size": 64},
    "xlm": {"emb_dim": 64, "n_layers": 2, "n_heads": 4},
    "xlm-roberta": {},
    "xlnet": {"max_position_embeddings": None, "d_model": 64, "n_layer": 2, "n_head": 4, "d_inner": 128},
}


def save(folder: Path, name: str) -> None:
    """A checkpoint of the architecture with random weights and a tokenizer of a few words; in a child."""
    import tokenizers
    import torch
    import transformers

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    words = {word: number for number, word in enumerate([*special, *_WORDS])}
    text = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="[UNK]"))
    text.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    text.post_processor = tokenizers.processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    named = dict(zip(("pad_token", "unk_token", "cls_token", "sep_token", "mask_token"), special, strict=True))
    transformers.PreTrainedTokenizerFast(tokenizer_object=text, **named).save_pretrained(folder)
    torch.manual_seed(0)
    ids = {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3, "cls_token_id": 2, "sep_token_id": 3, "pad_index": 0}
    common = {"vocab_size": len(words), "max_position_embeddings": 64, "initializer_range": 0.2}
    settings = {**common, **ids, **_SIZES, **_ARCHITECTURES[name]}
    config = transformers.AutoConfig.for_model(name, **{key: value for key, value in settings.items() if value is not None})
    transformers.AutoModelForSequenceClassification.from_config(config).save_pretrained(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", choices=list(_ARCHITECTURES))
    arguments = parser.parse_args()
    checks = Checks("Checkpoints by each road")
    checks.say("Seconds of `edgekit convert` in float32 and dynamic, largest difference from PyTorch (relative), kB of dynamic.")
    checks.say()
    roads = ROADS[Kind.CHECKPOINT]
    checks.say(f"| architecture | {' | '.join(roads)} |\n| --- | {' | '.join('---' for _ in roads)} |")
    seconds: dict[str, list[float]] = {road: [] for road in roads}
    causes = []
    with rooms.temporary("benchmark") as room:
        for name in arguments.only or _ARCHITECTURES:
            folder, cells, took = room / name, [], {}
            Worker().run(save, folder, name)
            for road in roads:
                out = room / f"{name}_{road}"
                options = [
                    "--scheme",
                    "float32",
                    "--scheme",
                    "dynamic",
                    "--max-length",
                    str(_LENGTH),
                    "--bridge",
                    road,
                    "--out",
                    out,
                ]
                answer = ask(["convert", folder, *options])
                if answer.failures:
                    cells.append("–")
                    causes.append(f"- {name}, {road}: {' '.join(answer.failures[0].replace(str(folder), name).split())[:300]}")
                    continue
                manifest = json.loads((out / f"{name}_float32.json").read_text())
                worst = max(parity["max_rel"] for parity in manifest["measured"]["parity"].values())
                size = (out / f"{name}_dynamic.tflite").stat().st_size
                took[road] = answer.cost.seconds
                cells.append(f"{answer.cost.seconds:.1f} s, {worst:.0e}, {size / 1e3:.0f} kB")
            checks.say(f"| {name} | {' | '.join(cells)} |")
            if len(took) == len(roads):
                for road, value in took.items():
                    seconds[road].append(value)
            checks.holds(f"{name}: some road leads there", bool(took))
    checks.say()
    means = {road: math.exp(sum(map(math.log, values)) / len(values)) for road, values in seconds.items() if values}
    checks.say(f"Geometric means where all lead there: {', '.join(f'{road} {value:.1f} s' for road, value in means.items())}.")
    checks.say("\n".join(["", *causes]))
    checks.finish("roads")


if __name__ == "__main__":
    main()
