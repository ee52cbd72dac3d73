"""What quantization has to know of a float32 .tflite's tensors, gathered by running it on representative data.

In a worker child; no memory grows with the number of samples."""

import contextlib
import os
import pickle
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.data.samples import Samples, as_fed
from edgekit.errors import ConfigError, ConversionError, one_line
from edgekit.spec import MASK
from edgekit.stages.quantize.bias import Product, prepared
from edgekit.stages.quantize.candidates import Reference, expect
from edgekit.stages.quantize.forms import MULTIPLIED
from edgekit.stages.quantize.histogram import RANGES, Histogram
from edgekit.stages.quantize.moments import gather
from edgekit.stages.quantize.prepare import prepare
from edgekit.stages.quantize.quantizer import product_weights, recipe_everything, refuse_constant
from edgekit.stages.quantize.rounding import single_threaded
from edgekit.stages.quantize.schemes import CALIBRATIONS, MINMAX
from edgekit.stages.quantize.tensors import Tensors
from edgekit.system.worker import progress
from edgekit.tflite import flatbuffer
from edgekit.tflite.batches import groups

# Rows in memory at a time.
_CHUNK = 32
# Rows that histograms are made of, spread over all; a range moves by less than a step with more.
_HISTOGRAM_ROWS = 512
_IDS = "input_ids"
_NOT_FINITE = "{}: {} takes values that are not finite on the representative data; check the data and the model's weights"
# A value that moves by this share of the tensor's largest has changed; what leaks through a mask is far less.
_CHANGED = 1e-3
# Ops that read how values compare with each other; EXP is what a softmax in parts begins with.
_COMPARING = ("SOFTMAX", "LOG_SOFTMAX", "EXP", "ARG_MAX", "ARG_MIN", "TOPK_V2")


def check_method(method: str) -> None:
    """Raise `ConfigError` unless `method` is one of `CALIBRATIONS`."""
    if method not in CALIBRATIONS:
        raise ConfigError(f"calibration {method}: unknown; choose from {', '.join(CALIBRATIONS)}")


def calibrate(
    model: Path,
    samples_folder: Path,
    target: Path,
    method: str = MINMAX,
    *,
    ranges: bool = True,
    looked_at: Path | None = None,
    trial: Reference | None = None,
) -> None:
    """Run `model` on the saved samples and write what `write_integer` needs to know of its float tensors to `target`.

    That is each one's range, which dynamic files do without (`ranges` False), and of matrix products what `bias.prepared` makes of
    their inputs. With `minmax` the range is the least and largest value over all samples; the other methods clip it, see
    `histogram`, and keep those two as `least` and `greatest`, which int16 takes. `looked_at` is where to write the
    model as `prepare` leaves it, which spares all who quantize it that work; `expect` is done for `trial` meanwhile. Raises
    `ConfigError` for another method, and `ConversionError` if the model does not run on the samples or a tensor takes a value
    that is not finite."""
    check_method(method)
    refuse_constant(content := model.read_bytes(), model.name)
    data = prepare(content)
    if looked_at is not None:
        looked_at.write_bytes(data)
    # Interpreters without the delegate gain little by a second thread of their own, and most by one for each.
    with single_threaded(), ThreadPoolExecutor() as pool:
        ranged = pool.submit(_ranges, model, data, samples_folder, method) if ranges else None
        rounded = pool.submit(_products, model, data, samples_folder)
        expected = pool.submit(expect, model, trial) if trial is not None else None
        try:
            results = ranged.result() if ranged is not None else {}, rounded.result()
            if expected is not None:
                expected.result()
        except (ValueError, RuntimeError, KeyError) as error:
            cause = one_line(error)
            raise ConversionError(f"{model.name}: calibration failed ({cause}); check the representative data") from error
    target.write_bytes(pickle.dumps(results))


def _products(model: Path, data: bytes, samples_folder: Path) -> Mapping[str, Product]:
    moments = gather(data, Samples.load(samples_folder))
    for output, of_inputs in moments.items():
        if not np.isfinite(of_inputs.mean).all():
            raise ConversionError(_NOT_FINITE.format(model.name, f"what {output} is computed from"))
    return prepared(product_weights(data), moments)


def _ranges(model: Path, data: bytes, samples_folder: Path, method: str) -> dict[str, Any]:
    from ai_edge_quantizer.calibrator import CalibrationMode

    file = flatbuffer.parse(data, str(model))
    entry = file.entry()
    graph = file.subgraphs[entry.subgraph]
    names = {graph.tensors[index].name for index in computed(graph)}
    # Statistics are gathered inside the interpreter, tensor by tensor: 7 times faster than keeping all tensors for Python
    # to look at, and nothing grows with the number of samples.
    statistics = _statistics(data, entry.key, samples_folder, CalibrationMode.CALIBRATION_PROFILER_BASED)
    # What the delegate fuses away or a called subgraph computes may be missing; the slow way sees it.
    if names - set(statistics):
        # Nor does it where an op holds its state out of reach; ops of which no range is known stay in float.
        with contextlib.suppress(ValueError, RuntimeError):
            slow = _statistics(data, entry.key, samples_folder, CalibrationMode.CALIBRATION_PRESERVE_ALL_TENSORS)
            statistics = {**slow, **statistics}
    for name in sorted(names & set(statistics)):
        if not all(np.isfinite(statistics[name][end]).all() for end in ("min", "max")):
            raise ConversionError(_NOT_FINITE.format(model.name, f"tensor {name}"))
    if method != MINMAX:
        statistics = {**statistics, **_clipped(data, file, statistics, samples_folder, method)}
    return statistics


def _statistics(model: bytes, key: str, samples_folder: Path, mode: Any) -> dict[str, Any]:
    os.environ["TQDM_DISABLE"] = "1"
    from ai_edge_quantizer import recipe_manager
    from ai_edge_quantizer.calibrator import Calibrator
    from ai_edge_quantizer.utils.qsv_utils import min_max_update

    file = flatbuffer.parse(model, "model")
    signature = file.signature(file.entry())
    ranks, batch = {spec.name: len(spec.shape) for spec in signature.inputs}, signature.batch
    manager = recipe_manager.RecipeManager()
    manager.load_quantization_recipe(recipe_everything(16))
    # Without an update of its own it takes a moving average, which clips what the last samples did not reach.
    calibrator = Calibrator(model, num_threads=1, mode=mode, qsv_update_func=min_max_update)
    total = len(Samples.load(samples_folder))
    for start in range(0, total, _CHUNK):
        progress("calibrate", start, total)
        # Mapped anew for each chunk, so that the pages read so far are let go.
        chunk = Samples.load(samples_folder).span(slice(start, start + _CHUNK))
        rows = groups(chunk.inputs, batch, full=True)
        fed = [{name: as_fed(np.array(values), ranks[name]) for name, values in row.items()} for row in rows]
        calibrator.calibrate({key: fed}, manager)
    return calibrator.get_model_qsvs()


def _clipped(
    data: bytes, file: flatbuffer.ModelFile, statistics: Mapping[str, Any], samples_folder: Path, method: str
) -> dict[str, Any]:
    """Statistics with the range that `method` finds, of the tensors that may be clipped."""
    entry = file.entry()
    graph = file.subgraphs[entry.subgraph]
    histograms: dict[int, Histogram] = {}
    for index in computed(graph) - full_range(graph):
        if (limits := statistics.get(graph.tensors[index].name)) is not None:
            histograms[index] = Histogram(float(np.min(limits["min"])), float(np.max(limits["max"])))
    _fill(Tensors(data, entry, sorted(histograms)), samples_folder, histograms)
    clipped = {}
    for index, histogram in histograms.items():
        # Without a value, as in a branch that no sample took, or with one value there is nothing to choose from.
        if histogram.counts.any() and histogram.high > histogram.low:
            limits = statistics[graph.tensors[index].name]
            low, high = RANGES[method](histogram)
            ends = {"min": np.full_like(limits["min"], low), "max": np.full_like(limits["max"], high)}
            clipped[graph.tensors[index].name] = {**limits, **ends, "least": limits["min"], "greatest": limits["max"]}
    return clipped


def _fill(tensors: Tensors, samples_folder: Path, histograms: Mapping[int, Histogram]) -> None:
    total = len(Samples.load(samples_folder))
    count = min(total, _HISTOGRAM_ROWS)
    chosen = np.linspace(0, total - 1, count).astype(np.int64)
    axes: dict[int, tuple[int, ...]] | None = None
    for start in range(0, count, _CHUNK):
        # Mapped anew as above.
        for row in Samples.load(samples_folder).take(chosen[start : start + _CHUNK]):
            real = row[MASK].reshape(-1) > 0 if {MASK, _IDS} <= row.keys() else None
            if axes is None and real is not None and real.any() and not real.all():
                axes = token_axes(tensors, row, real)
            value_of = tensors.run(row)
            for index, histogram in histograms.items():
                values = value_of(index)
                if real is not None and axes is not None:
                    for axis in axes[index]:
                        values = values.compress(real, axis)
                histogram.add(values)


def token_axes(tensors: Tensors, row: Mapping[str, np.ndarray], real: np.ndarray) -> dict[int, tuple[int, ...]]:
    """Axes of each tensor along which positions are tokens and padding does not count, found by putting other padding in.

    `real` (length,) says which tokens of `row` are none. A size alone does not tell a token axis: a head or a layer may be
    as wide as the text is long. Where padding changes what real tokens give, it counts, and no axis is named."""
    value_of = tensors.run(row)
    before = {index: value_of(index) for index in tensors.indices}
    ids = row[_IDS].copy()
    ids.reshape(-1)[~real] = ids.reshape(-1)[real][0]
    value_of = tensors.run({**row, _IDS: ids})
    axes = {}
    for index, values in before.items():
        changed = np.abs(value_of(index) - values) > _CHANGED * np.abs(values).max(initial=0)
        axes[index] = tuple(axis for axis, size in enumerate(values.shape) if size == len(real) and _follows(changed, axis, real))
    return axes


def _follows(changed: np.ndarray, axis: int, real: np.ndarray) -> bool:
    """Whether every padded position along `axis` changed in more places than any real one."""
    shares = changed.mean(axis=tuple(other for other in range(changed.ndim) if other != axis))
    return bool(shares[~real].min() > shares[real].max())


def computed(graph: flatbuffer.Subgraph) -> set[int]:
    """The float32 tensors that the graph is given or computes."""
    indices = {*graph.inputs, *(index for operator in graph.operators for index in operator.outputs if index >= 0)}
    return {index for index in indices if graph.tensors[index].dtype == "float32"}


def full_range(graph: flatbuffer.Subgraph) -> set[int]:
    """Tensors that a clipped range would give another meaning.

    The graph's ends: clipping makes equal what was to be told apart. What a softmax reads, and all between it and the
    matrix product behind it: an attention mask has to stay far below the scores. What has its range by definition. And what
    ai-edge-quantizer gives one scale with any of these."""
    from ai_edge_quantizer.algorithms.utils.common_utils import OpQuantConstraint
    from ai_edge_quantizer.utils.constrained_ops_utils import get_constrained_op_list

    kinds = (OpQuantConstraint.FIXED_OUTPUT_SCALE, OpQuantConstraint.SAME_AS_INPUT_SCALE, OpQuantConstraint.SAME_AS_OUTPUT_SCALE)
    fixed, *same = (get_constrained_op_list(kind) for kind in kinds)
    alike = {name for names in same for name in names}
    kept = {index for operator in graph.operators if operator.name in fixed for index in operator.outputs}
    kept |= {*graph.inputs, *graph.outputs}
    compared = {index for operator in graph.operators if operator.name in _COMPARING for index in operator.inputs[:1]}
    compared = _behind(graph, compared, lambda operator: operator.name not in MULTIPLIED)
    return _behind(graph, kept | compared, lambda operator: operator.name in alike)


def _behind(graph: flatbuffer.Subgraph, tensors: set[int], through: Callable[[flatbuffer.Operator], bool]) -> set[int]:
    """`tensors` and what they are computed from, through the ops that `through` names."""
    behind = set(tensors)
    # Ops stand in order of execution.
    for operator in reversed(graph.operators):
        if behind & set(operator.outputs) and through(operator):
            behind |= {index for index in operator.inputs if index >= 0}
    return behind
