"""Each choice by itself gets the logit that it gets among all of a row, whatever the architecture."""

import numpy as np
import pytest

from edgekit.models import choice_head
from edgekit.system.worker import Worker
from tests.unit.models.test_masked_head import LENGTH, MODELS, VOCABULARY

SERVED = [model_type for model_type in MODELS if model_type != "deberta"]


def each() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """In a worker: logits (2, 3) of rows of three choices, and (6, 1) of the choices alone."""
    import torch
    import transformers

    found = {}
    for model_type in SERVED:
        torch.manual_seed(0)
        config = transformers.AutoConfig.for_model(model_type, **MODELS[model_type])
        model = transformers.AutoModelForMultipleChoice.from_config(config).eval()
        inputs = {"input_ids": torch.randint(5, VOCABULARY, (2, 3, LENGTH)), "attention_mask": torch.ones(2, 3, LENGTH).long()}
        inputs["attention_mask"][:, 1, 9:] = 0
        with torch.no_grad():
            together = model(**inputs).logits.numpy()
            model = choice_head.alone(model)
            found[model_type] = together, model(**{name: values.flatten(0, 1) for name, values in inputs.items()}).logits.numpy()
    return found


@pytest.fixture(scope="module")
def of_models() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    return Worker(timeout_s=300).run(each).value


@pytest.mark.parametrize("model_type", SERVED)
def test_logits_are_those_of_the_whole_row(model_type: str, of_models: dict[str, tuple[np.ndarray, np.ndarray]]) -> None:
    together, alone = of_models[model_type]
    assert together.shape == (2, 3)
    assert alone.shape == (6, 1)
    assert np.ptp(together) > 0
    assert np.abs(alone.reshape(2, 3) - together).max() < 1e-5 * np.abs(together).max()
