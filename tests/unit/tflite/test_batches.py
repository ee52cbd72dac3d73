"""How many rows a file takes, and rows in groups of as many."""

import numpy as np
import pytest

from edgekit.data.samples import Samples
from edgekit.measure.execution import by_row
from edgekit.measure.measurement import Latency, Measurement, batch_of
from edgekit.spec import Signature, TensorSpec
from edgekit.tflite.batches import fitting, groups
from edgekit.tflite.interpreter import filled


def signature(*shapes: tuple[int, ...], output: tuple[int, ...] = (4, 2), names=("input_ids", "attention_mask")) -> Signature:
    inputs = tuple(TensorSpec(name, shape, "int32") for name, shape in zip(names, shapes, strict=True))
    return Signature(inputs, (TensorSpec("logits", output, "float32"),))


@pytest.mark.parametrize(
    ("of", "batch"),
    [
        (signature((4, 16), (4, 16)), 4),
        (signature((1, 16), (1, 16), output=(1, 2)), 1),
        (signature((-1, 16), (-1, 16), output=(-1, 2)), 1),
        # A tower's output that is one for all rows, an image, arrays without a mask: the first axis belongs to the row.
        (signature((4, 16), (4, 16), output=(1, 2)), 1),
        (signature((4, 16), (4, 8)), 1),
        (signature((4, 16), (4, 16), names=("a", "b")), 1),
    ],
)
def test_a_batch_is_told_by_the_mask_and_alike_axes(of, batch):
    assert of.batch == batch
    row = of.of_one_row()
    assert row.batch == 1 and (row.outputs[0].shape[0] == 1) == (batch > 1 or of.outputs[0].shape[0] == 1)


def test_rows_are_grouped_and_the_last_group_filled_up():
    inputs = Samples({"input_ids": np.arange(14).reshape(7, 2)}).inputs
    assert [len(group["input_ids"]) for group in groups(inputs, 3)] == [3, 3, 1]
    assert [group["input_ids"][:, 0].tolist() for group in groups(inputs, 3, full=True)] == [[0, 2, 4], [6, 8, 10], [12, 12, 12]]
    assert filled(np.array([[1], [2]]), 4).ravel().tolist() == [1, 2, 2, 2]
    rows = by_row({"logits": np.arange(6).reshape(3, 2)}, 3)
    assert [row["logits"].tolist() for row in rows] == [[0, 1], [2, 3], [4, 5]]


@pytest.mark.parametrize(("rows", "batch"), [(1, 1), (2, 4), (4, 4), (5, 8), (9, 8)])
def test_the_smallest_batch_that_holds_the_rows_fits(rows, batch):
    assert fitting(rows, (1, 4, 8)) == batch


def test_latency_is_a_rows_share():
    phone = Latency(10, 1, 8.0, 6.0, None, None, 4.0).a_row(4)
    assert (phone.mean_ms, phone.p50_ms, phone.p90_ms, phone.min_ms, phone.batch, phone.runs) == (2.0, 1.5, None, 1.0, 4, 10)
    timed = Measurement("a", 1, None, latency=phone)
    assert batch_of([timed]) == 4
    assert batch_of([timed, Measurement("b", 1, None, latency=Latency(1, 1, 1, 1, 1, 1, 1))]) == [1, 4]
    assert batch_of([Measurement("c", 1, None)]) == 1
