"""The head on the mask's place alone gives the logits that the whole head gives there, whatever the architecture."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekit.models import architectures, masked_head
from edgekit.system.worker import Worker

MASK, VOCABULARY, LENGTH = 4, 60, 12
_USUAL: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
}
_XLM = {
    "vocab_size": VOCABULARY,
    "emb_dim": 32,
    "n_layers": 2,
    "n_heads": 2,
    "pad_index": 0,
    "mask_token_id": MASK,
    "mask_index": MASK,
}
MODELS: dict[str, dict[str, Any]] = {
    "albert": {**_USUAL, "embedding_size": 16},
    "bert": _USUAL,
    "camembert": _USUAL,
    "convbert": {**_USUAL, "embedding_size": 32},
    "deberta": {**_USUAL, "relative_attention": True, "pos_att_type": ["c2p", "p2c"]},
    "deberta-v2": {**_USUAL, "relative_attention": True, "pos_att_type": ["c2p", "p2c"]},
    "distilbert": {
        "vocab_size": VOCABULARY,
        "dim": 32,
        "hidden_dim": 48,
        "n_layers": 2,
        "n_heads": 2,
        "max_position_embeddings": 64,
    },
    "electra": {**_USUAL, "embedding_size": 16},
    "flaubert": _XLM,
    "mobilebert": {**_USUAL, "embedding_size": 32, "intra_bottleneck_size": 32, "true_hidden_size": 32},
    "modernbert": {**_USUAL, "global_attn_every_n_layers": 1},
    "mpnet": _USUAL,
    "roberta": _USUAL,
    "roformer": {**_USUAL, "embedding_size": 32},
    "squeezebert": {**_USUAL, "embedding_size": 32},
    "xlm": _XLM,
    "xlm-roberta": _USUAL,
}


Arrays = tuple[np.ndarray, np.ndarray, np.ndarray]


def each() -> dict[str, Arrays]:
    """In a worker, as is what it calls."""
    return {model_type: logits(model_type) for model_type in MODELS}


def logits(model_type: str) -> Arrays:
    """The logits at the mask of the whole head, of the head on that place, and those without a mask."""
    import torch
    import transformers

    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(model_type, **MODELS[model_type])
    model = transformers.AutoModelForMaskedLM.from_config(config).eval()
    ids = torch.randint(5, VOCABULARY, (3, LENGTH), dtype=torch.int32)
    ids[:, 9:] = 0
    ids[range(3), [1, 5, 8]] = MASK
    inputs = {"input_ids": ids, "attention_mask": (ids != 0).int()}
    with torch.no_grad():
        whole = model(**inputs).logits[range(3), [1, 5, 8]].numpy()
        model = masked_head.at_mask(model, MASK)
        return whole, model(**inputs).logits.numpy(), model(**{**inputs, "input_ids": ids.clamp(min=5)}).logits.numpy()


@pytest.fixture(scope="module")
def of_models() -> dict[str, Arrays]:
    return Worker(timeout_s=300).run(each).value


@pytest.mark.parametrize("model_type", MODELS)
def test_logits_are_those_of_the_whole_head_at_the_mask(model_type: str, of_models: dict[str, Arrays]) -> None:
    whole, alone, without = of_models[model_type]
    assert alone.shape == without.shape == whole.shape == (3, VOCABULARY)
    assert np.abs(alone - whole).max() < 1e-5 * np.abs(whole).max()
    assert np.isfinite(without).all()


KEPT = [0, 1, 2, 3, 4, 7, 9, 30, 31, 59]
CUT = ("bert", "deberta-v2", "distilbert", "mobilebert", "roberta")


def cut_each(folder: Path) -> dict[str, Arrays]:
    """In a worker, as is what it calls."""
    return {model_type: cut(model_type, KEPT, folder / model_type) for model_type in CUT}


def cut(model_type: str, kept: list[int], folder: Path) -> Arrays:
    """Logits of the kept tokens before and after the others went, and those of the saved checkpoint."""
    import torch
    import transformers

    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(model_type, **MODELS[model_type])
    model = transformers.AutoModelForMaskedLM.from_config(config).eval()
    for name, values in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(values)
    new = torch.arange(len(kept)).reshape(1, -1)
    with torch.no_grad():
        before = model(input_ids=torch.tensor([kept])).logits[..., kept].numpy()
        architectures.keep_tokens(model, kept)
        after = model(input_ids=new).logits.numpy()
        model.save_pretrained(folder)
        stored = transformers.AutoModelForMaskedLM.from_pretrained(folder).eval()(input_ids=new).logits.numpy()
    return before, after, stored


@pytest.fixture(scope="module")
def of_cut_models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Arrays]:
    return Worker(timeout_s=300).run(cut_each, tmp_path_factory.mktemp("cut")).value


@pytest.mark.parametrize("model_type", CUT)
def test_tokens_that_go_leave_the_others_logits(model_type: str, of_cut_models: dict[str, Arrays]) -> None:
    before, after, stored = of_cut_models[model_type]
    assert np.abs(before - after).max() < 1e-5 * np.abs(before).max()
    assert np.array_equal(after, stored)
