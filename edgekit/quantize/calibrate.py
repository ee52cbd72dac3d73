"""What quantization has to know of a float32 .tflite's tensors, gathered by running it on representative data.

In a worker child; no memory grows with the number of samples.
"""

import itertools
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.data.samples import Samples, as_fed
from edgekit.errors import ConversionError
from edgekit.quantize.bias import mean_inputs
from edgekit.quantize.quantizer import one_line, recipe_everything
from edgekit.quantize.tree import prepare
from edgekit.tflite import flatbuffer

# Rows in memory at a time.
_CHUNK = 32


def calibrate(model: Path, samples_folder: Path, target: Path) -> None:
    """Run `model` on the saved samples and write what `write_integer` needs to know of its float tensors to `target`.

    That is each one's least and largest value over all samples, and the mean by channel of what goes into matrix products.

    Raises `ConversionError` if the model does not run on them or a tensor takes a value that is not finite.
    """
    from ai_edge_quantizer.calibrator import CalibrationMode

    data = prepare(model.read_bytes())
    file = flatbuffer.parse(data, str(model))
    try:
        # Statistics are gathered inside the interpreter, tensor by tensor: 7 times faster than keeping all tensors for Python
        # to look at, and nothing grows with the number of samples.
        statistics = _statistics(data, file.entry().key, samples_folder, CalibrationMode.CALIBRATION_PROFILER_BASED)
        # What the delegate fuses away or a called subgraph computes may be missing; the slow way sees it.
        if _computed(file) - set(statistics):
            slow = _statistics(data, file.entry().key, samples_folder, CalibrationMode.CALIBRATION_PRESERVE_ALL_TENSORS)
            statistics = {**slow, **statistics}
        means = mean_inputs(data, Samples.load(samples_folder))
    except (ValueError, RuntimeError, KeyError) as error:
        raise ConversionError(f"{model.name}: calibration failed ({one_line(error)}); check the representative data") from error
    for name in sorted(_computed(file) & set(statistics)):
        if not all(np.isfinite(statistics[name][end]).all() for end in ("min", "max")):
            raise ConversionError(
                f"{model.name}: tensor {name} takes values that are not finite on the representative data; "
                "check the data and the model's weights"
            )
    target.write_bytes(pickle.dumps((statistics, means)))


def _statistics(model: bytes, key: str, samples_folder: Path, mode: Any) -> dict[str, Any]:
    os.environ["TQDM_DISABLE"] = "1"
    from ai_edge_quantizer import recipe_manager
    from ai_edge_quantizer.calibrator import Calibrator
    from ai_edge_quantizer.utils.qsv_utils import min_max_update

    file = flatbuffer.parse(model, "model")
    ranks = {spec.name: len(spec.shape) for spec in file.signature(file.entry()).inputs}
    manager = recipe_manager.RecipeManager()
    manager.load_quantization_recipe(recipe_everything(16))
    # Without an update of its own it takes a moving average, which clips what the last samples did not reach.
    calibrator = Calibrator(model, num_threads=os.cpu_count() or 1, mode=mode, qsv_update_func=min_max_update)
    for start in range(0, len(Samples.load(samples_folder)), _CHUNK):
        # Mapped anew for each chunk, so that the pages read so far are let go.
        rows = itertools.islice(Samples.load(samples_folder), start, start + _CHUNK)
        fed = [{name: as_fed(np.array(values), ranks[name]) for name, values in row.items()} for row in rows]
        calibrator.calibrate({key: fed}, manager)
    return calibrator.get_model_qsvs()


def _computed(file: flatbuffer.ModelFile) -> set[str]:
    """Names of the float32 tensors that the entry's graph computes or is given."""
    graph = file.subgraphs[file.entry().subgraph]
    indices = {*graph.inputs, *(index for operator in graph.operators for index in operator.outputs if index >= 0)}
    return {graph.tensors[index].name for index in indices if graph.tensors[index].dtype == "float32"}
