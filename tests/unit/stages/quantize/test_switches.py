"""A file with a switch for each op gives what the file with that choice of ops gives."""

from dataclasses import replace

import numpy as np
import pytest

from edgekit.data.samples import Samples
from edgekit.stages.quantize import forms
from edgekit.stages.quantize.forms import Form
from edgekit.stages.quantize.prepare import read_graph
from edgekit.stages.quantize.quantizer import FloatFile
from edgekit.stages.quantize.switches import SWITCHES, both_ways
from edgekit.tflite.interpreter import Model

# The root of what these give as integers is no number in either file.
ROUNDED_TO_0 = ("squares", "variance", "padded")
FORMS = [Form("every op"), Form("matrix products", ops=forms.PRODUCTS)]


def outputs(file, rows, **more) -> np.ndarray:
    model = Model(file)
    return np.concatenate([next(iter(model.run({**row, **more}).values())) for row in rows])


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.name)
@pytest.mark.parametrize("net", ["loud", "encoder"])
def test_each_choice_gives_what_a_file_of_its_own_gives(request, net, form, tmp_path):
    room = request.getfixturevalue(net)
    ops = forms.candidates(read_graph(room / "float32.tflite"), form)
    source = FloatFile(room / "float32.tflite", room / "calibration")

    def quantized(kept) -> bytes:
        return source.quantized(replace(form, floating=frozenset(ops) - frozenset(kept)))

    mixed, switched = both_ways(quantized(()), quantized(ops), ops)
    assert set(switched) <= set(ops)
    assert len(switched) >= len(ops) // 2
    (tmp_path / "mixed.tflite").write_bytes(mixed)
    rows = [row for row, _ in zip(Samples.load(room / "rows"), range(8), strict=False)]
    for kept in ((), ops, *((op,) for op in ops if op not in ROUNDED_TO_0)):
        (tmp_path / "own.tflite").write_bytes(quantized(kept))
        wanted = outputs(tmp_path / "own.tflite", rows)
        found = outputs(tmp_path / "mixed.tflite", rows, **{SWITCHES: np.isin(switched, kept).astype(np.float32)[:, None]})
        # A value that lies between two steps may fall to either.
        assert np.abs(found - wanted).mean() <= 1e-3 * np.abs(wanted).max()
        assert np.abs(found - wanted).max() <= 2e-2 * np.abs(wanted).max()


def test_without_an_op_that_differs_it_is_the_same_file(loud, tmp_path):
    file = FloatFile(loud / "float32.tflite", loud / "calibration").quantized(Form("every op"))
    mixed, switched = both_ways(file, file, ["mean"])
    assert switched == ()
    (tmp_path / "own.tflite").write_bytes(file)
    (tmp_path / "mixed.tflite").write_bytes(mixed)
    rows = [next(iter(Samples.load(loud / "rows")))]
    np.testing.assert_array_equal(outputs(tmp_path / "mixed.tflite", rows), outputs(tmp_path / "own.tflite", rows))
