"""One model to .tflite files in the schemes asked for: made, run, compared, and published with their figures or refused."""

import contextlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np

from edgekit.data import sources
from edgekit.data.encode import Encoding, encode, refuse_statistics
from edgekit.data.representative import MINIMUM, RepresentativeDataset, draw
from edgekit.data.samples import Samples, described, random_samples
from edgekit.data.sources import Columns, Rows, TextRows
from edgekit.data.text import check_room
from edgekit.errors import CalibrationError, ConfigError, EdgekitError
from edgekit.measure.judge import BenchmarkConfig, benchmark
from edgekit.measure.measurement import Measurement
from edgekit.models import checkpoint, ranges
from edgekit.spec import TensorSpec
from edgekit.stages.quantize import schemes
from edgekit.stages.quantize.calibrate import calibrate
from edgekit.stages.quantize.candidates import LABELLED_ROWS, Reference
from edgekit.stages.quantize.mediapipe import SEGMENTS
from edgekit.stages.quantize.plan import EVERY_OP, IntegerSettings, QuantizationPlan, quantize, trained_plan
from edgekit.stages.quantize.preflight import preflight
from edgekit.stages.quantize.schemes import Scheme
from edgekit.system import artifacts
from edgekit.system.worker import Progress, Worker, together
from edgekit.tflite import flatbuffer, metadata, package
from edgekit.workflows.convert import bridge, contents, several_lengths
from edgekit.workflows.convert.bridge import Bridge, FloatModel, Kind, Source, Step
from edgekit.workflows.convert.config import ConvertConfig
from edgekit.workflows.convert.publish import Data, Publisher, final_path, judge, read_plan, rejected_path, undecided
from edgekit.workflows.convert.several_lengths import Lengths

_UNTAUGHT_ROWS = 16
_QUICK = BenchmarkConfig(runs=30, warmup=5, rounds=2, max_seconds=1.0, max_accuracy_seconds=3.5, gzip=False)


@dataclass(frozen=True)
class Converted:
    """One scheme's result: `path` where it was published, else why it was `refused`; `lengths` where it has several.

    The measurement of a file that was kept as rejected has that path.
    """

    scheme: str
    path: Path | None
    measurement: Measurement | None = None
    plan: QuantizationPlan | None = None
    refused: str | None = None
    lengths: Lengths | None = None


@dataclass(frozen=True)
class Conversion:
    """All results of one run; `data` says what they were judged on, `steps` what each child cost, `notes` what users must know."""

    source: Source
    results: tuple[Converted, ...]
    reference: Measurement
    float_model: FloatModel
    steps: tuple[Step, ...]
    data: str
    notes: tuple[str, ...] = ()

    @property
    def refusals(self) -> tuple[str, ...]:
        return tuple(f"{result.scheme}: {result.refused}" for result in self.results if result.refused)


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
    # Found out here as well, since a recipe does not tell it.
    config = replace(config, brings=bridge.brings(model))
    for scheme in wanted:
        final = final_path(out, source, scheme)
        artifacts.refuse_existing(final, overwrite=overwrite)
        artifacts.refuse_existing(final.with_suffix(".json"), overwrite=overwrite)
    _check(source, config)
    parents = {str(source.path): artifacts.sha256(source.path)}
    planned = read_plan(config.plan, parents) if config.plan is not None else None
    trained, other = ranges.read(source.path) if source.kind is Kind.CHECKPOINT else (None, "")
    drawn = read_rows(config, columns or Columns())
    refuse_statistics(drawn.judged or drawn.calibration, config.mean, config.std)
    worker = Worker(on_progress=on_progress)
    tell = _Teller(
        on_progress, len(wanted) + 4 + any(scheme.activations == "int16" for scheme in wanted) + bool(config.sequence_lengths)
    )
    with artifacts.claimed(out), artifacts.work_folder("edgekit-convert-") as work:
        tell("to float32 .tflite")
        float_model, data = _float_model(source, config, drawn, work, worker)
        package = contents.of_source(source, float_model.path, drawn.judged or drawn.calibration, config)
        tell("calibrate")
        # Also dynamic gains by it: its weights are rounded for what they will see.
        gaining = any(scheme.weights == "int8" and scheme.name not in config.brings for scheme in wanted)
        rows_to_see = data.calibration if gaining else None
        calibrated = _Calibrated(float_model.path)
        # Beside the files and not in the temporary folder, so that a search that was killed goes on from it.
        journal = out / f".{source.name}_int8.search.jsonl"
        form = planned or (EVERY_OP if config.every_op else None)
        searching = form is None and any(scheme.name == "int8" and _needs(scheme, config.brings) for scheme in wanted)
        expected = work / "expected.npy" if searching else None
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
        own = partial(bridge.own_file, source, float_model, work, worker)
        maker = _Maker(float_model.path, work, data, calibrated, settings, worker, tell, dict.fromkeys(config.brings, own))
        tasks = [partial(bridge.check_source, source, float_model, data.held_out, work, worker)]
        if rows_to_see is not None:
            trial = Reference(data.trial or rows_to_see, expected) if expected else None
            ranged = any(_needs(scheme, config.brings) for scheme in wanted)
            tasks.append(partial(calibrated.look, float_model, rows_to_see, work, worker, config.calibration, ranged, trial))
        tasks += [partial(_warn, float_model.path, scheme, worker, tell) for scheme in wanted if scheme.activations == "int16"]
        # What calibration changes nothing of is made meanwhile. int8 is planned by timing its candidates: nothing else runs then.
        early = [
            scheme
            for scheme in wanted
            if scheme.name in ("float32", "float16") or not (rows_to_see or _needs(scheme, config.brings))
        ]
        late = [scheme for scheme in wanted if scheme not in early]
        together([*tasks, *(partial(maker.make, scheme) for scheme in early)])
        together([partial(maker.make, scheme) for scheme in late if scheme.name != "int8"])
        together([partial(maker.make, scheme) for scheme in late if scheme.name == "int8"])
        made, failed = maker.made, maker.failed
        bare = {name: file for name, (file, _) in made.items()}
        several = None
        if config.sequence_lengths:
            tell("other lengths")
            held = data.held_out, rows_to_see
            several = several_lengths.Several(source, config.sequence_lengths, config.bridge, float_model, *held, work, worker)
            try:
                several.merge(made, failed, calibrated.path, settings)
            except EdgekitError:
                # It is for runs that were killed.
                journal.unlink(missing_ok=True)
                raise
        tell("measure")
        packed = {name: _packed(package, file, name, work) for name, (file, _) in made.items()}
        reference = packed.get("float32") or _packed(package, float_model.path, "float32", work)
        measured = _measure(reference, packed, data.held_out, config, work)
        told = several.measure(packed, failed, reference, config.threads) if several else {}
        tell("publish")
        notes = package.notes if package is not None else ()
        notes += undecided([measured[file] for file in packed.values()])
        notes += (other,) if other and any(scheme.name == "int8" for scheme in wanted) else ()
        publisher = Publisher(out, source, parents, config, float_model, data, overwrite, notes, told)
        results = []
        for scheme in wanted:
            if scheme.name in failed:
                results.append(Converted(scheme.name, None, refused=failed[scheme.name]))
                continue
            plan = made[scheme.name][1]
            measurement = measured[packed[scheme.name]]
            allowed = config.max_drop if data.real else None
            reason = judge(measurement, allowed) or (
                several_lengths.judge(told[scheme.name], scheme.name, allowed) if told else None
            )
            if reason is None:
                measurement = publisher.publish(scheme, packed[scheme.name], plan, measurement)
            elif measurement.failure is None:
                reason = publisher.reject(scheme, packed[scheme.name], plan, measurement, reason, bare=bare[scheme.name])
                measurement = replace(measurement, path=str(rejected_path(final_path(out, source, scheme))))
            path = None if reason else final_path(out, source, scheme)
            results.append(Converted(scheme.name, path, measurement, plan, reason, told.get(scheme.name)))
        journal.unlink(missing_ok=True)
        if source.kind is Kind.CHECKPOINT and any(result.path for result in results):
            checkpoint.publish_tokenizer(source.path, out)
        return Conversion(
            source, tuple(results), measured[reference], float_model, tuple(float_model.steps), data.description, notes
        )


@dataclass
class _Calibrated:
    """Where the calibration and the model that it looked at lie, or why there is none: the float schemes need none of it."""

    model: Path
    path: Path | None = None
    failure: str = ""

    def look(
        self, made: FloatModel, rows: Path, work: Path, worker: Worker, method: str, ranges: bool, trial: Reference | None
    ) -> None:
        """Calibrate on `rows`, see `calibrate`."""
        # Under the name that messages call it by.
        prepared, target = work / "prepared" / made.path.name, work / "calibration"
        prepared.parent.mkdir()
        try:
            made.note(
                "calibrate", worker.run(calibrate, made.path, rows, target, method, ranges=ranges, looked_at=prepared, trial=trial)
            )
            self.model, self.path = prepared, target
        except EdgekitError as error:
            self.failure = error.message


def _warn(model: Path, scheme: Scheme, worker: Worker, tell: Callable[[str], None]) -> None:
    """Tell what a slow scheme will cost before it is made; it is made all the same."""
    with contextlib.suppress(EdgekitError):
        if line := worker.run(preflight, model, scheme).value:
            tell(line)


@dataclass
class _Maker:
    """Makes each scheme's file in `work`, with its plan, or tells why there is none."""

    float_model: Path
    work: Path
    data: Data
    calibrated: _Calibrated
    settings: IntegerSettings
    worker: Worker
    tell: Callable[[str], None]
    own: Mapping[str, Callable[[], Path]] = field(default_factory=dict)
    made: dict[str, tuple[Path, QuantizationPlan]] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)

    def make(self, scheme: Scheme) -> None:
        self.tell(scheme.name)
        if scheme.name in self.own:
            try:
                brought = self.own[scheme.name]()
                self.made[scheme.name] = brought, trained_plan(brought)
            except EdgekitError as error:
                self.failed[scheme.name] = error.message
            return
        if scheme.needs_data and self.calibrated.failure:
            self.failed[scheme.name] = self.calibrated.failure
            return
        file = self.float_model if scheme.name == "float32" else self.work / f"{scheme.name}.tflite"
        found = {"samples": self.data.calibration, "calibration": self.calibrated.path}
        try:
            model = self.calibrated.model if scheme.weights == "int8" else self.float_model
            plan = quantize(model, scheme, file, **found, settings=self.settings, worker=self.worker)
            if scheme.weights == "int8" and self.calibrated.failure:
                told = f"weights are rounded one by one, since the representative data cannot be used: {self.calibrated.failure}"
                plan = replace(plan, reason=f"{plan.reason}; {told}")
            self.made[scheme.name] = file, plan
        except ConfigError:
            raise
        except EdgekitError as error:
            self.failed[scheme.name] = error.message


def _needs(scheme: Scheme, brought: Sequence[str]) -> bool:
    return scheme.needs_data and scheme.name not in brought


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
        if config.mean is not None or config.std is not None:
            raise ConfigError(f"{source.name}: takes token ids, which --mean and --std do not normalize; leave them out")
        if config.input_shapes:
            raise ConfigError(f"{source.name}: --input-shape is for .onnx files; give a checkpoint's length with --max-length")
        if config.mediapipe and (config.integer_only or config.outputs != "float32"):
            raise ConfigError(
                f"{source.name}: MediaPipe takes float32 scores; leave out --integer-only and --outputs, or --mediapipe"
            )
        checkpoint.check_length(source.path, config.max_length)
        check_room(checkpoint.tokenizer_folder(source.path), min(config.sequence_lengths, default=config.max_length))
    elif config.sequence_lengths:
        raise ConfigError(f"{source.path}: --sequence-lengths is for checkpoints, which are exported at each; leave it out")
    elif config.bridge is not Bridge.ONNX:
        raise ConfigError(f"{source.path}: --bridge {config.bridge} is for checkpoints; leave it out")


@dataclass(frozen=True)
class Drawn:
    """Rows of the user's data: to calibrate on, to find an int8 file's plan on, and to judge on. None is in two of them."""

    calibration: Rows | None
    trial: Rows | None
    judged: Rows | None


def read_rows(config: ConvertConfig, columns: Columns) -> Drawn:
    """The rows that `config` names; the same ones for the same settings. There are none for trial where too few are left.

    Raises `DatasetError`, and `CalibrationError` for too few.
    """

    def read(reference: str) -> Rows:
        return sources.read(reference, text_columns=columns.text_columns, label_column=columns.label_column)

    rows = read(config.representative_data) if config.representative_data is not None else None
    judged = read(config.evaluation_data) if config.evaluation_data is not None else None
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
    if source.kind is Kind.CHECKPOINT:
        pairs = isinstance(rows, TextRows) and rows.pairs is not None
        inputs = bridge.token_specs(config.max_length, pairs=pairs)
        known = checkpoint.vocabulary_size(source.path)
        encoding = Encoding(checkpoint.tokenizer_folder(source.path), checkpoint.label_ids(source.path), vocabulary=known)
        data = _save(drawn, inputs, encoding, config, work)
        made = bridge.from_checkpoint(source.path, data.held_out, config.bridge, config.max_length, work, worker)
    else:
        made = bridge.from_file(source, config.max_length, config.input_shapes, work, worker)
        signature = (file := flatbuffer.read(made.path)).signature(file.entry())
        classes = signature.outputs[0].shape[-1] if signature.outputs and signature.outputs[0].shape else None
        mean, std = config.mean, config.std
        if source.kind is Kind.TFLITE and mean is None and std is None:
            mean, std = metadata.normalization(flatbuffer.read(source.path).model_metadata)
        tokenizer = package.tokenizer_of(source.path, work / "tokenizer") if isinstance(rows, TextRows) else None
        labels = package.settings(source.path).get("labels", ()) if tokenizer is not None else ()
        encoding = Encoding(tokenizer, {label: number for number, label in enumerate(labels)}, classes, mean=mean, std=std)
        data = _save(drawn, signature.inputs, encoding, config, work)
        bridge.refine(made, data.held_out if data.real else None, worker)
    return made, data


def _save(drawn: Drawn, inputs: Sequence[TensorSpec], encoding: Encoding, config: ConvertConfig, work: Path) -> Data:
    calibration, trial, held_out = None, None, work / "held_out"
    if drawn.calibration is not None:
        samples = RepresentativeDataset.build(encode(drawn.calibration, inputs, encoding, work / "images"), inputs).samples
        calibration = work / "calibration_rows"
        samples.save(calibration)
    if drawn.trial is not None and any(scheme.activations == "int8" for scheme in schemes.select(config.schemes)):
        trial = work / "trial_rows"
        encode(drawn.trial, inputs, encoding, work / "images").save(trial)
    if drawn.judged is not None:
        samples = encode(drawn.judged, inputs, encoding, work / "images")
        samples.save(held_out)
        return Data(calibration, held_out, described(samples, drawn.judged.origin), real=True, trial=trial)
    random_samples(inputs, _UNTAUGHT_ROWS, config.seed).save(held_out)
    return Data(calibration, held_out, f"{_UNTAUGHT_ROWS} random rows (no data given)", real=False, trial=trial)


def _packed(package: contents.Package | contents.Carried | None, file: Path, scheme: str, work: Path) -> Path:
    """The file as it will be published, which is what is measured."""
    if package is None:
        return file
    target = work / "packed" / f"{scheme}.tflite"
    target.parent.mkdir(exist_ok=True)
    package.write(file, target, scheme)
    return target


def _measure(
    reference: Path, packed: Mapping[str, Path], held_out: Path, config: ConvertConfig, work: Path
) -> dict[Path, Measurement]:
    names = {reference: "float32"} | {file: scheme for scheme, file in packed.items()}
    quick = replace(_QUICK, threads=config.threads, seed=config.seed)
    rows = _with_segments(held_out, flatbuffer.read(reference).entry().inputs, work)
    found = benchmark(list(names), rows, quick, reference=reference, schemes=names)
    return dict(zip(names, found, strict=True))


def _with_segments(held_out: Path, names: Iterable[str], work: Path) -> Path:
    """The saved rows with zeros for the segments that MediaPipe feeds, where a file takes them and the rows have none."""
    samples = Samples.load(held_out)
    if SEGMENTS not in names or SEGMENTS in samples.inputs:
        return held_out
    zeros = np.zeros_like(samples.inputs["input_ids"])
    Samples({**samples.inputs, SEGMENTS: zeros}, samples.labels).save(work / "held_out_with_segments")
    return work / "held_out_with_segments"
