"""One model to .tflite files in the schemes asked for: made, run, compared, and published with their figures or refused."""

import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from edgekit import artifacts, bridge, checkpoint
from edgekit.bridge import Bridge, FloatModel, Kind, Source, Step
from edgekit.data import sources
from edgekit.data.encode import Encoding, encode
from edgekit.data.representative import COUNT, MINIMUM, RepresentativeDataset, draw
from edgekit.data.samples import random_samples
from edgekit.data.sources import Columns, Rows, TextRows
from edgekit.data.text import check_room
from edgekit.errors import CalibrationError, ConfigError, EdgekitError
from edgekit.measure.benchmark import BenchmarkConfig, benchmark, check_threads
from edgekit.measure.measurement import Measurement
from edgekit.quantize import schemes
from edgekit.quantize.calibrate import calibrate
from edgekit.quantize.masks import soften_masks
from edgekit.quantize.plan import QuantizationPlan, quantize
from edgekit.quantize.schemes import Scheme
from edgekit.spec import DatasetReference, TensorSpec, shown
from edgekit.tflite import flatbuffer, metadata
from edgekit.worker import Progress, Worker

# Rows that each file is judged on where the user names none: never those that calibration saw.
HELD_OUT = 200
_UNTAUGHT_ROWS = 16
_QUICK = BenchmarkConfig(runs=30, warmup=5, rounds=1, max_seconds=1.0, max_accuracy_seconds=2.5, gzip=False)


@dataclass(frozen=True)
class ConvertConfig:
    """What `edgekit convert` is told.

    `max_length` counts tokens. `max_drop` is the accuracy (a proportion) that a scheme may lose against float32 on
    held-out rows before it is refused, or without labels the share of rows with another decision; None judges nothing.
    `inputs` and `outputs` are the dtypes of an integer file's float inputs and outputs.
    """

    schemes: tuple[str, ...] = ("float32", "float16", "dynamic")
    representative_data: DatasetReference | None = None
    representative_samples: int = COUNT
    evaluation_data: DatasetReference | None = None
    evaluation_samples: int = HELD_OUT
    max_length: int = 64
    max_drop: float | None = 0.05
    bridge: Bridge = Bridge.ONNX
    inputs: str = "float32"
    outputs: str = "float32"
    input_shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    threads: int = 2
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.schemes:
            raise ConfigError(f"schemes is empty; choose from {', '.join(schemes.SCHEMES)} or all")
        chosen = schemes.select(self.schemes)
        needy = [scheme.name for scheme in chosen if scheme.needs_data]
        if needy and self.representative_data is None:
            raise ConfigError(
                f"scheme {' and '.join(needy)} calibrates on real samples; give representative_data (--representative-data D)"
            )
        for name, least in (("representative_samples", MINIMUM), ("evaluation_samples", 1), ("max_length", 1), ("seed", 0)):
            if getattr(self, name) < least:
                raise ConfigError(f"{name} is {getattr(self, name)}; give at least {least}")
        check_threads(self.threads)
        if self.max_drop is not None and not 0 <= self.max_drop <= 1:
            raise ConfigError(f"max_drop is {self.max_drop:g}; give a proportion between 0 and 1, such as 0.01")
        if (self.inputs, self.outputs) != ("float32", "float32") and any(scheme.activations != "int8" for scheme in chosen):
            raise ConfigError("inputs and outputs change the interface of int8 files only; give the scheme int8 alone with them")


@dataclass(frozen=True)
class Converted:
    """One scheme's result: `path` where it was published, else why it was `refused`."""

    scheme: str
    path: Path | None
    measurement: Measurement | None = None
    plan: QuantizationPlan | None = None
    refused: str | None = None


@dataclass(frozen=True)
class Conversion:
    """All results of one run; `data` says what they were judged on, `steps` what each child cost."""

    source: Source
    results: tuple[Converted, ...]
    reference: Measurement
    float_model: FloatModel
    steps: tuple[Step, ...]
    data: str

    @property
    def refusals(self) -> tuple[str, ...]:
        return tuple(f"{result.scheme}: {result.refused}" for result in self.results if result.refused)


@dataclass(frozen=True)
class _Data:
    calibration: Path | None
    held_out: Path
    description: str
    real: bool


def convert(
    model: str,
    out: Path,
    config: ConvertConfig,
    *,
    columns: Columns | None = None,
    overwrite: bool = False,
    on_progress: Callable[[Progress], None] | None = None,
) -> Conversion:
    """Convert `model` and publish `OUT/<model>_<scheme>.tflite` and `.json` for every scheme that passes.

    Raises `InputError`, `ConversionError`, `WorkerError` and `OutputError`; a scheme that fails or is refused does not
    keep the others from being published, and is told in the result.
    """
    wanted = schemes.select(config.schemes)
    source = bridge.classify(model)
    finals = {scheme.name: out / f"{source.name}_{scheme.name}.tflite" for scheme in wanted}
    for final in finals.values():
        artifacts.refuse_existing(final, overwrite=overwrite)
        artifacts.refuse_existing(final.with_suffix(".json"), overwrite=overwrite)
    _check(source, config)
    rows, judged = _read(config, columns or Columns())
    worker = Worker(on_progress=on_progress)
    tell = _Teller(on_progress, len(wanted) + 4)
    with artifacts.claimed(out), tempfile.TemporaryDirectory(prefix="edgekit-convert-") as room:
        work = Path(room)
        tell("to float32 .tflite")
        float_model, data = _float_model(source, config, rows, judged, work, worker)
        calibration, uncalibrated = None, ""
        if any(scheme.needs_data for scheme in wanted) and data.calibration is not None:
            tell("calibrate")
            calibration = work / "calibration"
            try:
                float_model.note("calibrate", worker.run(calibrate, float_model.path, data.calibration, calibration))
            except EdgekitError as error:
                # The float schemes need none of it.
                calibration, uncalibrated = None, error.message
        made: dict[str, tuple[Path, QuantizationPlan]] = {}
        failed: dict[str, str] = {}
        for scheme in wanted:
            tell(scheme.name)
            if scheme.needs_data and uncalibrated:
                failed[scheme.name] = uncalibrated
                continue
            file = float_model.path if scheme.name == "float32" else work / f"{scheme.name}.tflite"
            try:
                plan = quantize(
                    float_model.path,
                    scheme,
                    file,
                    samples=data.calibration,
                    calibration=calibration,
                    inputs=config.inputs,
                    outputs=config.outputs,
                    worker=worker,
                )
                made[scheme.name] = (file, plan)
            except ConfigError:
                raise
            except EdgekitError as error:
                failed[scheme.name] = error.message
        tell("measure")
        measured = _measure(float_model.path, made, data, config)
        tell("publish")
        parents = {str(source.path): artifacts.sha256(source.path)}
        results = []
        for scheme in wanted:
            if scheme.name in failed:
                results.append(Converted(scheme.name, None, refused=failed[scheme.name]))
                continue
            file, plan = made[scheme.name]
            measurement = measured[file]
            reason = judge(measurement, config.max_drop if data.real else None)
            if reason is None:
                measurement = _publish(
                    file, finals[scheme.name], source, parents, config, scheme, plan, measurement, float_model, data, overwrite
                )
            results.append(Converted(scheme.name, None if reason else finals[scheme.name], measurement, plan, reason))
        if source.kind is Kind.CHECKPOINT and any(result.path for result in results):
            _publish_tokenizer(source.path, out)
        return Conversion(
            source, tuple(results), measured[float_model.path], float_model, tuple(float_model.steps), data.description
        )


def judge(found: Measurement, max_drop: float | None) -> str | None:
    """Why a file may not be published, or None."""
    if found.failure is not None:
        return found.failure
    if max_drop is None:
        return None
    if found.drop is not None:
        if found.drop.value > max_drop:
            return (
                f"loses {100 * found.drop.value:.1f} points of accuracy against float32 "
                f"({found.drop.low * 100:.1f} to {found.drop.high * 100:.1f} with 95 % confidence, {found.drop.total} rows), "
                f"--max-drop allows {100 * max_drop:.1f}; choose another scheme or better representative data"
            )
    elif found.agreement is not None and 1 - found.agreement.value > max_drop:
        return (
            f"decides otherwise than float32 on {100 * (1 - found.agreement.value):.1f} % of {found.agreement.total} rows, "
            f"--max-drop allows {100 * max_drop:.1f} %; choose another scheme or better representative data"
        )
    return None


class _Teller:
    def __init__(self, on_progress: Callable[[Progress], None] | None, total: int) -> None:
        self._tell, self._total, self._done = on_progress, total, 0

    def __call__(self, note: str) -> None:
        if self._tell is not None:
            self._tell(Progress("convert", self._done, self._total, note))
        self._done += 1


def _check(source: Source, config: ConvertConfig) -> None:
    if source.kind is Kind.CHECKPOINT:
        if config.inputs != "float32":
            raise ConfigError(f"{source.name}: takes token ids, which stay int32 always; leave out --inputs {config.inputs}")
        checkpoint.check_length(source.path, config.max_length)
        check_room(checkpoint.tokenizer_folder(source.path), config.max_length)
    elif config.bridge is not Bridge.ONNX:
        raise ConfigError(f"{source.path}: --bridge {config.bridge} is for checkpoints; leave it out")


def _read(config: ConvertConfig, columns: Columns) -> tuple[Rows | None, Rows | None]:
    """Rows to calibrate on and rows to judge on, disjoint; before anything costly starts."""

    def read(reference: str) -> Rows:
        return sources.read(reference, text_columns=columns.text_columns, label_column=columns.label_column)

    rows = read(config.representative_data) if config.representative_data is not None else None
    judged = read(config.evaluation_data) if config.evaluation_data is not None else None
    if judged is not None:
        judged = sources.take(judged, draw(judged, config.evaluation_samples, config.seed))
    if rows is None:
        return None, judged
    chosen = draw(rows, config.representative_samples, config.seed)
    if len(chosen) < MINIMUM:
        raise CalibrationError(f"{rows.origin}: has {len(rows)} rows, too few to calibrate with; give at least {MINIMUM}")
    if judged is None:
        rest = np.setdiff1d(np.arange(len(rows)), chosen)
        # With nothing left to judge on, the calibration rows are better than none, and the manifest says which it was.
        judged = sources.take(
            rows, rest[draw(len(rest), config.evaluation_samples, config.seed)] if len(rest) >= MINIMUM else chosen
        )
    return sources.take(rows, chosen), judged


def _float_model(
    source: Source, config: ConvertConfig, rows: Rows | None, judged: Rows | None, work: Path, worker: Worker
) -> tuple[FloatModel, _Data]:
    if source.kind is Kind.CHECKPOINT:
        pairs = isinstance(rows or judged, TextRows) and getattr(rows or judged, "pairs", None) is not None
        inputs = bridge.token_specs(config.max_length, pairs=pairs)
        known = checkpoint.vocabulary_size(source.path)
        encoding = Encoding(checkpoint.tokenizer_folder(source.path), checkpoint.label_ids(source.path), vocabulary=known)
        data = _save(rows, judged, inputs, encoding, config, work)
        made = bridge.from_checkpoint(source.path, data.held_out, config.bridge, config.max_length, work, worker)
    else:
        made = bridge.from_file(source, config.max_length, config.input_shapes, work, worker)
        signature = (file := flatbuffer.read(made.path)).signature(file.entry())
        classes = signature.outputs[0].shape[-1] if signature.outputs and signature.outputs[0].shape else None
        mean, std = config.mean, config.std
        if source.kind is Kind.TFLITE and mean is None and std is None:
            mean, std = metadata.normalization(flatbuffer.read(source.path).model_metadata)
        data = _save(rows, judged, signature.inputs, Encoding(classes=classes, mean=mean, std=std), config, work)
        if data.real:
            made.mask = worker.run(soften_masks, made.path, data.held_out).value
    bridge.check_source(source, made, data.held_out, work, worker)
    return made, data


def _save(
    rows: Rows | None, judged: Rows | None, inputs: Sequence[TensorSpec], encoding: Encoding, config: ConvertConfig, work: Path
) -> _Data:
    calibration, held_out = None, work / "held_out"
    if rows is not None:
        samples = RepresentativeDataset.build(encode(rows, inputs, encoding, work / "images"), inputs).samples
        calibration = work / "calibration_rows"
        samples.save(calibration)
    if judged is not None:
        samples = encode(judged, inputs, encoding, work / "images")
        samples.save(held_out)
        return _Data(calibration, held_out, f"{len(samples)} rows of {shown(judged.origin)}", real=True)
    random_samples(inputs, _UNTAUGHT_ROWS, config.seed).save(held_out)
    return _Data(calibration, held_out, f"{_UNTAUGHT_ROWS} random rows (no data given)", real=False)


def _measure(
    reference: Path, made: Mapping[str, tuple[Path, QuantizationPlan]], data: _Data, config: ConvertConfig
) -> dict[Path, Measurement]:
    names = {reference: "float32"} | {file: scheme for scheme, (file, _) in made.items()}
    quick = replace(_QUICK, threads=config.threads, seed=config.seed)
    found = benchmark(list(names), data.held_out, quick, reference=reference, schemes=names)
    return dict(zip(names, found, strict=True))


def _publish(
    file: Path,
    final: Path,
    source: Source,
    parents: Mapping[str, str],
    config: ConvertConfig,
    scheme: Scheme,
    plan: QuantizationPlan,
    measurement: Measurement,
    float_model: FloatModel,
    data: _Data,
    overwrite: bool,
) -> Measurement:
    measurement = replace(measurement, path=str(final))
    with artifacts.staged(final, overwrite=overwrite) as partial:
        shutil.copyfile(file, partial)
        manifest = artifacts.describe(
            partial,
            "tflite",
            name=final.name,
            parents=parents,
            config={"scheme": scheme.name, **config.__dict__},
            tools=(*float_model.made_by, "ai-edge-quantizer", "ai-edge-litert"),
            measured={
                "measurement": measurement,
                "data": data.description,
                "plan": plan,
                "bridge": list(float_model.made_by) or ["the source is a .tflite"],
                "parity": float_model.parity,
                "mask": float_model.mask,
                "steps": float_model.steps,
                "labels": checkpoint.label_ids(source.path) if source.kind is Kind.CHECKPOINT else {},
            },
        )
    artifacts.write_text(final.with_suffix(".json"), artifacts.to_json(manifest))
    return measurement


def _publish_tokenizer(folder: Path, out: Path) -> None:
    """The tokenizer travels with the files, so that they can be evaluated and used without the checkpoint."""
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt"):
        if (folder / name).is_file():
            with artifacts.staged(out / name, overwrite=True) as partial:
                shutil.copyfile(folder / name, partial)
