"""One model to .tflite files in the schemes asked for: made, run, compared, and published with their figures or refused."""

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.data import sources
from edgekit.data.encode import Encoding, refuse_statistics
from edgekit.data.representative import MINIMUM, draw, representative
from edgekit.data.samples import Samples, described, random_samples
from edgekit.data.sources import ColumnNames, Rows, TextRows
from edgekit.data.text import check_ids, check_room, random_texts
from edgekit.errors import CalibrationError, ConfigError, EdgekitError, about
from edgekit.measure.judge import BenchmarkConfig, benchmark
from edgekit.measure.machine import machine
from edgekit.measure.measurement import Measurement, batch_of, refusal
from edgekit.models import checkpoint, ranges
from edgekit.models.checkpoint import Checkpoint
from edgekit.models.source import Kind, Source, brings, classify
from edgekit.report.content import Report
from edgekit.spec import MASK, TensorSpec
from edgekit.stages.export.incoming import Fixes
from edgekit.stages.quantize import schemes
from edgekit.stages.quantize.calibrate import calibrate
from edgekit.stages.quantize.candidates import LABELLED_ROWS, Reference
from edgekit.stages.quantize.converter import write_trained
from edgekit.stages.quantize.mediapipe import SEGMENTS, gives_probabilities
from edgekit.stages.quantize.plan import EVERY_OP, IntegerSettings, QuantizationPlan, quantize, trained_plan
from edgekit.stages.quantize.preflight import preflight
from edgekit.stages.quantize.schemes import Scheme
from edgekit.system import artifacts, rooms
from edgekit.system.worker import OnProgress, Progress, Worker, preload, stage, together
from edgekit.tasks.base import Settings, Task
from edgekit.tasks.generic import GENERIC
from edgekit.tasks.recognition import named, recognise
from edgekit.tflite import flatbuffer, metadata, package
from edgekit.workflows.convert import bridge, contents, in_memory, several
from edgekit.workflows.convert.bridge import FloatModel
from edgekit.workflows.convert.config import Bridge, ConvertConfig
from edgekit.workflows.convert.fit import check_rows
from edgekit.workflows.convert.publish import Data, Publisher, final_path, read_plan, rejected_path
from edgekit.workflows.convert.several import Several, Sizes
from edgekit.workflows.convert.several_batches import SeveralBatches
from edgekit.workflows.convert.several_lengths import SeveralLengths
from edgekit.workflows.inputs import classes_of

_UNTAUGHT_ROWS = 16
_REMEDY = "choose another scheme or better representative data"
# Of outputs on random rows, where nothing else is known of them.
_LEAST_COSINE = 0.9
_QUICK = BenchmarkConfig(runs=30, warmup=5, rounds=2, max_seconds=1.0, max_accuracy_seconds=3.5, gzip=False)


@dataclass(frozen=True)
class Converted:
    """One scheme's result: `path` where it was published, else why it was `refused`; `sizes` where it has several.

    The measurement of a file that was kept as rejected has that path."""

    scheme: str
    path: Path | None
    measurement: Measurement | None = None
    plan: QuantizationPlan | None = None
    refused: str | None = None
    sizes: Sizes | None = None


@dataclass(frozen=True)
class Conversion:
    """All results of one run; `data` says what they were judged on, `notes` what users must know."""

    source: Source
    results: tuple[Converted, ...]
    reference: Measurement
    float_model: FloatModel
    data: str
    notes: tuple[str, ...] = ()

    @property
    def refusals(self) -> tuple[str, ...]:
        return tuple(f"{result.scheme}: {result.refused}" for result in self.results if result.refused)

    @property
    def published(self) -> tuple[Converted, ...]:
        return tuple(result for result in self.results if result.path)

    def report(self) -> Report:
        """The figures of what was published; the float32 model is the reference, whether it was asked for or not."""
        rows = tuple(result.measurement for result in self.published if result.measurement)
        if not any(row.scheme == "float32" for row in rows):
            rows = (self.reference, *rows)
        plans = [f"{result.scheme}: {result.plan.reason}" for result in self.published if result.plan]
        sizes = [f"{result.scheme}: {result.sizes.told}" for result in self.published if result.sizes]
        return Report(
            title=f"edgekit convert: {self.source.name}",
            model=self.source.name,
            data=self.data,
            machine=machine(),
            settings={"threads": self.reference.threads, "batch": batch_of(rows)},
            rows=rows,
            reference=next(row.path for row in rows if row.scheme == "float32"),
            notes=(*plans, *sizes, *self.notes),
        )

    def _repr_html_(self) -> str:
        return self.report()._repr_html_()


def convert(
    model: Any,
    out: str | Path,
    config: ConvertConfig = ConvertConfig(),  # noqa: B008 - frozen
    *,
    example_inputs: Any = None,
    name: str | None = None,
    overwrite: bool = False,
    on_progress: OnProgress = None,
) -> Conversion:
    """Convert `model` and publish `OUT/<model>_<scheme>.tflite` and `.json` for every scheme that passes.

    `model` is what the command takes, or one in memory: a `keras.Model`, a `torch.export.ExportedProgram`, or a `torch.nn.Module`
    with `example_inputs`, whose shapes the files keep: a tensor or array, a tuple of them, or a dict by the names of `forward`'s
    arguments. Files of these are called `name`, else as the Keras model or the module's class.

    Raises `InputError`, `ConversionError`, `WorkerError` and `OutputError`; a scheme that fails or is refused does not
    keep the others from being published, and is told in the result."""
    with in_memory.as_reference(model, example_inputs, name) as reference:
        return _convert(reference, Path(out), config, overwrite=overwrite, on_progress=on_progress)


def _convert(model: str, out: Path, config: ConvertConfig, *, overwrite: bool, on_progress: OnProgress) -> Conversion:
    # Options before the model, which may have to be downloaded.
    chosen, brought = schemes.select(config.schemes), check_schemes(model, config)
    source = classify(model, config.task)
    for scheme in chosen:
        final = final_path(out, source, scheme)
        artifacts.refuse_existing(final, overwrite=overwrite)
        artifacts.refuse_existing(final.with_suffix(".json"), overwrite=overwrite)
    _check(source, config)
    parents = {str(source.path): artifacts.sha256(source.path)}
    planned = read_plan(config.plan, parents) if config.plan is not None else None
    trained, other = ranges.read(source.path) if source.kind is Kind.CHECKPOINT else (None, "")
    drawn = draw_rows(config, columns_of(source, config))
    refuse_statistics(drawn.judged or drawn.calibration, config.mean, config.std)
    check_rows(source, config, drawn.calibration or drawn.judged)
    worker = Worker(on_progress=on_progress)
    slow = [scheme for scheme in chosen if scheme.activations == "int16"]
    preload(["edgekit.measure.execution", *(["edgekit.stages.quantize.calibrate"] if drawn.calibration is not None else [])])
    with artifacts.claimed(out), rooms.temporary("convert") as work, about(source.path):
        float_model, data = _float_model(source, config, drawn, work, worker)
        carried = contents.of_source(source, float_model.path, drawn.judged or drawn.calibration, data.task, data.settings, config)
        # Also dynamic gains by it: its weights are rounded for what they will see.
        gaining = any(scheme.weights == "int8" and scheme.name not in brought for scheme in chosen)
        rows_to_see = data.calibration if gaining else None
        # Beside the files and not in the temporary folder, so that a search that was killed goes on from it.
        journal = out / f".{source.name}_int8.search.jsonl"
        form = planned or (EVERY_OP if config.every_op else None)
        searching = form is None and any(scheme.name == "int8" and _needs(scheme, brought) for scheme in chosen)
        expected = work / "expected" if searching else None
        settings = IntegerSettings(
            inputs=config.inputs,
            outputs=config.outputs,
            integer_only=config.integer_only,
            calibration=config.calibration,
            search_seconds=config.search_seconds,
            max_drop=config.max_drop if data.real else None,
            journal=journal,
            form=form,
            ranges=trained,
            trial=data.trial,
            expected=expected,
        )
        maker = _Maker(source, float_model, data, config, brought, settings, work, worker, float_model.path)
        tasks: list[partial[None]] = []
        if rows_to_see is not None:
            trial = Reference(data.trial or rows_to_see, expected) if expected else None
            ranged = any(_needs(scheme, brought) for scheme in chosen)
            tasks.append(partial(maker.look, ranged, trial))
        tasks += [partial(maker.warn, scheme) for scheme in slow]
        # What calibration changes nothing of is made meanwhile. int8 is planned by timing its candidates: nothing else runs then.
        early = [
            scheme for scheme in chosen if scheme.name in ("float32", "float16") or not (rows_to_see or _needs(scheme, brought))
        ]
        late = [scheme for scheme in chosen if scheme not in early]
        together([*tasks, *(partial(maker.make, scheme) for scheme in early)])
        together([partial(maker.make, scheme) for scheme in late if scheme.name != "int8"])
        together([partial(maker.make, scheme) for scheme in late if scheme.name == "int8"])
        made, failed = maker.made, maker.failed
        bare = {name: file for name, (file, _) in made.items()}
        others: Several | None = None
        rest = config.max_length, float_model, data.held_out, rows_to_see, work, worker
        if config.sequence_lengths and source.checkpoint is not None:
            others = SeveralLengths(source, source.checkpoint, config.sequence_lengths, *rest)
        elif len(config.batch_sizes) > 1 and source.checkpoint is not None:
            others = SeveralBatches(source, source.checkpoint, config.batch_sizes, *rest)
        if others is not None:
            try:
                with stage(on_progress, f"convert: the others of {others.option}"):
                    others.merge(made, failed, maker.calibration, settings)
            except EdgekitError:
                # It is for runs that were killed.
                journal.unlink(missing_ok=True)
                raise
        packed = {name: _packed(carried, file, name, work) for name, (file, _) in made.items()}
        reference = packed.get("float32") or _packed(carried, float_model.path, "float32", work)
        measured = _measure(reference, packed, data, config, work, on_progress)
        by_size = others.measure(packed, failed, reference, config.threads) if others else {}
        notes = carried.notes if carried is not None else ()
        notes += (other,) if other and any(scheme.name == "int8" for scheme in chosen) else ()
        publisher = Publisher(out, source, parents, config, float_model, data, overwrite, notes, by_size)
        results = []
        for scheme in chosen:
            if scheme.name in failed:
                results.append(Converted(scheme.name, None, refused=failed[scheme.name]))
                continue
            plan = made[scheme.name][1]
            measurement = measured[packed[scheme.name]]
            reason = _refused(measurement, data, config)
            if reason is None and by_size:
                bounds = (config.max_drop, config.min_db) if data.real else (None, None)
                reason = several.judge(by_size[scheme.name], scheme.name, *bounds)
            if reason is None:
                measurement = publisher.publish(scheme, packed[scheme.name], plan, measurement)
            elif measurement.failure is None:
                reason = publisher.reject(scheme, packed[scheme.name], plan, measurement, reason, bare=bare[scheme.name])
                measurement = replace(measurement, path=str(rejected_path(final_path(out, source, scheme))))
            path = None if reason else final_path(out, source, scheme)
            results.append(Converted(scheme.name, path, measurement, plan, reason, by_size.get(scheme.name)))
        journal.unlink(missing_ok=True)
        if source.kind is Kind.CHECKPOINT and any(result.path for result in results):
            checkpoint.publish_tokenizer(source.path, out)
        return Conversion(source, tuple(results), measured[reference], float_model, data.description, notes)


def check_schemes(model: str, config: ConvertConfig) -> tuple[str, ...]:
    """The schemes that `model` has a file of its own for. Raises `ConfigError` for others without data to calibrate on."""
    own = brings(model)
    needy = [scheme.name for scheme in schemes.select(config.schemes) if _needs(scheme, own)]
    if needy and config.data is None:
        raise ConfigError(f"scheme {' and '.join(needy)} calibrates on real samples; give data (--representative-data D)")
    if config.int8_settings and "int8" in own:
        what = config.int8_settings[0]
        raise ConfigError(f"{what}: the model was trained quantization-aware and brings its int8 file; leave it out")
    return own


def _refused(measurement: Measurement, data: Data, config: ConvertConfig) -> str | None:
    """Why a file may not be published; on random rows only values that have nothing to do with float32's are a reason."""
    if data.real:
        return refusal(measurement, config.max_drop, config.min_db, _REMEDY, config.min_cosine)
    worst = min(measurement.outputs, key=lambda output: output.cosine, default=None)
    if measurement.failure is None and worst is not None and worst.cosine < _LEAST_COSINE:
        return f"output {worst.name} has a cosine of {worst.cosine:.2f} with float32's on random rows; {_REMEDY}"
    return refusal(measurement, None, None, _REMEDY, None)


@dataclass
class _Maker:
    """Makes each scheme's file in `work`, with its plan, or says why there is none.

    `calibration` is that of the model `prepared`, or `failure` says why there is none: the float schemes need none of it."""

    source: Source
    float_model: FloatModel
    data: Data
    config: ConvertConfig
    brought: Sequence[str]
    settings: IntegerSettings
    work: Path
    worker: Worker
    prepared: Path
    calibration: Path | None = None
    failure: str = ""
    made: dict[str, tuple[Path, QuantizationPlan]] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)

    def look(self, ranges: bool, trial: Reference | None) -> None:
        """Calibrate, see `calibrate`."""
        # Under the name that messages call it by.
        model, target = self.float_model.path, self.work / "calibration"
        prepared = self.work / "prepared" / model.name
        rows, method = self.data.calibration, self.config.calibration
        prepared.parent.mkdir()
        try:
            options: dict[str, Any] = {"ranges": ranges, "looked_at": prepared, "trial": trial}
            self.float_model.run("calibrate", self.worker, calibrate, model, rows, target, method, **options)
            self.prepared, self.calibration = prepared, target
        except EdgekitError as error:
            self.failure = error.message

    def warn(self, scheme: Scheme) -> None:
        """Tell what a slow scheme will cost before it is made; it is made all the same."""
        with contextlib.suppress(EdgekitError):
            line = self.worker.run(preflight, self.float_model.path, scheme).value
            if line and self.worker.on_progress is not None:
                self.worker.on_progress(Progress("convert", 0, 0, line))

    def make(self, scheme: Scheme) -> None:
        try:
            with stage(self.worker.on_progress, f"convert: {scheme.name}"):
                self.made[scheme.name] = self._made(scheme)
        except ConfigError:
            raise
        except EdgekitError as error:
            self.failed[scheme.name] = error.message

    def _made(self, scheme: Scheme) -> tuple[Path, QuantizationPlan]:
        file = self.float_model.path if scheme.name == "float32" else self.work / f"{scheme.name}.tflite"
        if scheme.name in self.brought:
            self.float_model.run("trained ranges to int8 .tflite", self.worker, write_trained, self.source.path, file)
            return file, trained_plan(file)
        if scheme.needs_data and self.failure:
            raise CalibrationError(self.failure)
        model = self.prepared if scheme.weights == "int8" else self.float_model.path
        seen = {"samples": self.data.calibration, "calibration": self.calibration}
        plan = quantize(model, scheme, file, **seen, settings=self.settings, worker=self.worker)
        if scheme.weights == "int8" and self.failure:
            reason = f"weights are rounded one by one, since the representative data cannot be used: {self.failure}"
            plan = replace(plan, reason=f"{plan.reason}; {reason}")
        return file, plan


def _needs(scheme: Scheme, brought: Sequence[str]) -> bool:
    return scheme.needs_data and scheme.name not in brought


def _check(source: Source, config: ConvertConfig) -> None:
    bridge.fitting(source.kind, source.path, config.bridge)
    if source.checkpoint is not None:
        if config.inputs != "float32":
            raise ConfigError(f"{source.name}: takes token ids, which stay int32 always; leave out --inputs {config.inputs}")
        if config.mean is not None or config.std is not None:
            raise ConfigError(f"{source.name}: takes token ids, which --mean and --std do not normalize; leave them out")
        if config.input_shapes:
            raise ConfigError(f"{source.name}: --input-shape is for .onnx files; give a checkpoint's length with --max-length")
        if config.input_values:
            raise ConfigError(f"{source.name}: --input-value is for .onnx files; leave it out")
        if config.mediapipe and (config.integer_only or config.outputs != "float32"):
            raise ConfigError(
                f"{source.name}: MediaPipe takes float32 scores; leave out --integer-only and --outputs, or --mediapipe"
            )
        source.checkpoint.check_length(config.max_length)
        source.checkpoint.refuse_other_head()
        check_room(source.checkpoint.tokenizer, min(config.sequence_lengths, default=config.max_length))
    elif config.batch > 1:
        raise ConfigError(f"{source.path}: --batch-size is for checkpoints of texts, which are exported at each; leave it out")
    elif config.sequence_lengths:
        raise ConfigError(f"{source.path}: --sequence-lengths is for checkpoints, which are exported at each; leave it out")


@dataclass(frozen=True)
class Drawn:
    """Rows of the user's data: to calibrate on, to find an int8 file's plan on, and to judge on. None is in two of them."""

    calibration: Rows | None
    trial: Rows | None
    judged: Rows | None


def columns_of(source: Source, config: ConvertConfig) -> ColumnNames:
    """The column names of the source's task, as far as that is known before there is data."""
    if source.checkpoint is not None:
        return source.checkpoint.task.columns
    settings = package.settings(source.path) if source.kind is Kind.TFLITE else {}
    return (named(settings, config.task) or GENERIC).columns


def draw_rows(config: ConvertConfig, names: ColumnNames = sources.COLUMNS) -> Drawn:
    """The rows that `config` names; the same ones for the same settings. There are none for trial where too few are left.

    Raises `DatasetError`, and `CalibrationError` for too few."""
    rows = sources.read(config.data, names) if config.data is not None else None
    judged = sources.read(config.evaluation_data, names) if config.evaluation_data is not None else None
    if judged is not None:
        judged = sources.take(judged, draw(judged, config.evaluation_samples, config.seed))
    if rows is None:
        return Drawn(None, None, judged)
    chosen = draw(rows, config.representative_samples, config.seed)
    if len(chosen) < MINIMUM:
        raise CalibrationError(f"{rows.origin}: has {len(rows)} rows, too few to calibrate with; give at least {MINIMUM}")
    rest = np.setdiff1d(np.arange(len(rows)), chosen)
    if judged is None:
        held = rest[draw(len(rest), config.evaluation_samples, config.seed)] if len(rest) >= MINIMUM else chosen
        # With nothing left to judge on, the calibration rows are better than none, and the manifest says which it was.
        judged, rest = sources.take(rows, held), np.setdiff1d(rest, held)
    trial = sources.take(rows, rest[draw(len(rest), LABELLED_ROWS, config.seed)]) if len(rest) >= MINIMUM else None
    return Drawn(sources.take(rows, chosen), trial, judged)


def _float_model(source: Source, config: ConvertConfig, drawn: Drawn, work: Path, worker: Worker) -> tuple[FloatModel, Data]:
    rows = drawn.calibration or drawn.judged

    def of_checkpoint(model: Checkpoint, road: Bridge, room: Path) -> tuple[FloatModel, Data]:
        inputs = model.inputs(config.max_length, pairs=model.task.joins(rows))
        encoding = Encoding(model.tokenizer, vocabulary=model.vocabulary)
        data = _save(drawn, inputs, encoding, model.task, model.settings, config, room)
        made = bridge.from_checkpoint(model, data.held_out, road, config.max_length, room, worker, config.batch)
        bridge.finish(source, made, data.held_out, room, worker)
        return made, data

    fixes = Fixes(config.input_shapes, config.input_values)

    def of_file(road: Bridge, room: Path) -> tuple[FloatModel, Data]:
        made = bridge.from_file(source, road, config.max_length, fixes, room, worker)
        signature = (file := flatbuffer.read(made.path)).signature(file.entry())
        inside = package.settings(source.path) if source.kind is Kind.TFLITE else {}
        judged = sources.feeding(rows, signature.inputs) if rows is not None else None
        task, settings = recognise(inside, signature.outputs, judged, config.task)
        mean, std = config.mean, config.std
        of_images = source.kind is Kind.TFLITE and mean is None and std is None
        if of_images:
            mean, std = metadata.normalization(flatbuffer.read(source.path).model_metadata)
        tokenizer = package.tokenizer_of(source.path, room / "tokenizer") if isinstance(rows, TextRows) else None
        listed = inside.get("channels_first")
        moved = made.channels_first or tuple(map(str, listed if isinstance(listed, list) else ()))
        settings = {**settings, "channels_first": moved} if moved else settings
        classes = classes_of(signature.outputs)
        encoding = Encoding(tokenizer, classes, mean=mean, std=std, channels_first=moved, of_images=of_images)
        positive = made.onnx.positive if made.onnx is not None else ()
        data = _save(drawn, signature.inputs, encoding, task, settings, config, room, positive)
        bridge.finish(source, made, data.held_out, room, worker, soften=data.real)
        return made, data

    make = of_file if source.checkpoint is None else partial(of_checkpoint, source.checkpoint)
    if source.checkpoint is not None:
        check_ids(source.checkpoint.tokenizer, drawn.calibration, drawn.trial, drawn.judged)
    return bridge.by_first(source.kind, source.path, config.bridge, make, work, worker.on_progress)


def _save(
    drawn: Drawn,
    specs: Sequence[TensorSpec],
    encoding: Encoding,
    task: Task,
    settings: Settings,
    config: ConvertConfig,
    work: Path,
    positive: Sequence[str] = (),
) -> Data:
    """The rows as the model takes them; random ones have no negative values for the inputs `positive`."""

    def encode(rows: Rows) -> Samples:
        return task.encode(rows, specs, encoding, settings, work / "images")

    calibration, trial, held_out = None, None, work / "held_out"
    if drawn.calibration is not None:
        calibration = work / "calibration_rows"
        representative(encode(drawn.calibration), specs).save(calibration)
    if drawn.trial is not None and any(scheme.activations == "int8" for scheme in schemes.select(config.schemes)):
        trial = work / "trial_rows"
        encode(drawn.trial).save(trial)
    if drawn.judged is None:
        tokenizer = encoding.tokenizer if MASK in {spec.name for spec in specs} else None
        draw = partial(random_texts, tokenizer) if tokenizer is not None else random_samples
        samples = draw(specs, _UNTAUGHT_ROWS, config.seed)
        inputs = {name: np.abs(values) if name in positive else values for name, values in samples.inputs.items()}
        samples = replace(samples, inputs=inputs)
    else:
        samples = encode(drawn.judged)
    description = described(samples, drawn.judged.origin) if drawn.judged else f"{_UNTAUGHT_ROWS} random rows (no data given)"
    samples.save(held_out)
    return Data(calibration, held_out, description, drawn.judged is not None, trial, task, settings)


def _packed(carried: contents.Package | contents.Carried | None, file: Path, scheme: str, work: Path) -> Path:
    """The file as it will be published, which is what is measured."""
    if carried is None:
        return file
    target = work / "packed" / f"{scheme}.tflite"
    target.parent.mkdir(exist_ok=True)
    carried.write(file, target, scheme)
    return target


def _measure(
    reference: Path, packed: Mapping[str, Path], data: Data, config: ConvertConfig, work: Path, on_progress: OnProgress
) -> dict[Path, Measurement]:
    names = {reference: "float32"} | {file: scheme for scheme, file in packed.items()}
    quick = replace(_QUICK, threads=config.threads, seed=config.seed)
    rows = _as_packed(data.held_out, reference, work) if config.mediapipe else data.held_out
    measured = benchmark(list(names), rows, quick, reference=reference, schemes=names, on_progress=on_progress)
    return dict(zip(names, measured, strict=True))


def _as_packed(held_out: Path, reference: Path, work: Path) -> Path:
    """The saved rows as MediaPipe's files take them: with zeros for its segments, and scores where these are in the graph."""
    samples, content = Samples.load(held_out), flatbuffer.read(reference)
    inputs, settings = dict(samples.inputs), dict(samples.settings)
    if SEGMENTS in content.entry().inputs and SEGMENTS not in inputs:
        inputs[SEGMENTS] = np.zeros_like(inputs["input_ids"])
    if gives_probabilities(content):
        settings["activation"] = "none"
    replace(samples, inputs=inputs, settings=settings).save(work / "held_out_as_packed")
    return work / "held_out_as_packed"
