"""Encoders that other converters to .tflite publish wrong, or not at all, in the scheme that they fail in."""

from pathlib import Path
from typing import Any

import pytest

from edgekit.data.sources import TextRows
from edgekit.spec import DataSpec
from edgekit.system.worker import Worker
from edgekit.tflite import flatbuffer
from edgekit.workflows.convert.config import ConvertConfig
from edgekit.workflows.convert.conversion import Conversion, convert
from tests import tiny

LENGTH = 24
RELATIVE = {
    "relative_attention": True,
    "pos_att_type": ["c2p", "p2c"],
    "max_relative_positions": LENGTH,
    "max_position_embeddings": 64,
}


def _converted(room: Path, architecture: str, task: str, schemes: tuple[str, ...], data: DataSpec, **config: Any) -> Conversion:
    folder = Worker().run(tiny.encoder, room / architecture, architecture, task, **config).value
    # Random weights decide on a knife's edge: what they compute is judged, by its error.
    how = ConvertConfig(schemes, data=data, max_length=LENGTH, evaluation_samples=24, max_drop=1.0)
    return convert(str(folder), room / "out", how)


def _least_db(conversion: Conversion) -> dict[str, float]:
    found = {}
    for result in conversion.results:
        assert result.refused is None, result.refused
        assert result.measurement is not None
        found[result.scheme] = min(output.error_db for output in result.measurement.outputs)
    return found


def test_a_berts_attention_mask_in_int16(tmp_path: Path) -> None:
    decibels = _least_db(_converted(tmp_path, "bert", "text-classification", ("dynamic", "int16x8"), tiny.data(200)))
    assert decibels["int16x8"] > decibels["dynamic"] + 3


@pytest.mark.parametrize(
    ("architecture", "config"),
    [("deberta", {}), ("deberta-v2", {"position_buckets": 8, "conv_kernel_size": 3})],
    ids=["v1", "v2"],
)
def test_relative_positions_in_integers(tmp_path: Path, architecture: str, config: dict[str, Any]) -> None:
    """Products by constants that LiteRT gives zeros for, if each channel has a scale of its own."""
    schemes = ("dynamic", "int8", "int16x8")
    made = _converted(tmp_path, architecture, "text-classification", schemes, tiny.data(200), **RELATIVE, **config)
    decibels = _least_db(made)
    assert decibels["int8"] > 15
    assert decibels["int16x8"] > decibels["dynamic"] - 1
    path = made.results[schemes.index("int16x8")].path
    assert path is not None
    graph = flatbuffer.read(path).subgraphs[0]
    products = [operator for operator in graph.operators if operator.name == "BATCH_MATMUL"]
    by_constants = [index for operator in products for index in operator.inputs if graph.tensors[index].data_bytes]
    assert by_constants
    assert {graph.tensors[index].scales for index in by_constants} == {1}


def test_positions_that_begin_behind_the_padding_reach_the_last_one(tmp_path: Path) -> None:
    """The table of positions has one more row than there are tokens: a row of text that is full looks up the last."""
    texts = [text for text, _ in tiny.sentences(120)]
    contexts = [" ".join(texts[place : place + 3]) for place in range(len(texts))]
    rows = TextRows(tuple(text.split()[0] for text in texts), tuple(contexts), None, "contexts")
    schemes = ("float32", "int8")
    positions = {"max_position_embeddings": LENGTH + 1, "type_vocab_size": 1}
    made = _converted(tmp_path, "xlm-roberta", "question-answering", schemes, DataSpec(rows), **positions)
    assert made.source.checkpoint is not None
    assert made.source.checkpoint.longest == LENGTH
    decibels = _least_db(made)
    assert decibels["int8"] > 15
