"""A conversion's files: published under their names with their figures, or kept as rejected with the reason."""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from edgekit.data.samples import Samples
from edgekit.errors import ConfigError, EdgekitError
from edgekit.measure.examine import Diagnosis, diagnose
from edgekit.measure.measurement import Measurement
from edgekit.models.source import Source
from edgekit.stages.quantize.forms import Form
from edgekit.stages.quantize.plan import QuantizationPlan
from edgekit.stages.quantize.schemes import Scheme
from edgekit.system import artifacts, serial
from edgekit.system.serial import read_json
from edgekit.tasks.base import Task
from edgekit.workflows.convert.bridge import FloatModel
from edgekit.workflows.convert.several import Sizes

REJECTED = ".rejected"
_DIAGNOSED_ROWS = 64


@dataclass(frozen=True)
class Data:
    """Folders of the saved rows: to calibrate on, to judge on (`real` if a user gave them), and to find an int8 plan on.

    `task` is what they were encoded for, with its `settings`."""

    calibration: Path | None
    held_out: Path
    description: str
    real: bool
    trial: Path | None
    task: Task
    settings: Mapping[str, Any]


def final_path(out: Path, source: Source, scheme: Scheme) -> Path:
    """Where a scheme's file goes."""
    return out / f"{source.name}_{scheme.name}.tflite"


@dataclass(frozen=True)
class Publisher:
    """What all files of one conversion have in common. `config` is a dataclass; it goes into the manifests as it is.

    `sizes` has the figures by sequence length or batch size of the schemes whose files have several."""

    out: Path
    source: Source
    parents: Mapping[str, str]
    config: Any
    float_model: FloatModel
    data: Data
    overwrite: bool
    notes: tuple[str, ...] = ()
    sizes: Mapping[str, Sizes] = field(default_factory=dict)

    def publish(self, scheme: Scheme, file: Path, plan: QuantizationPlan, measurement: Measurement) -> Measurement:
        """Put `file` under its final name, with its manifest; returns the measurement under that name."""
        final = final_path(self.out, self.source, scheme)
        measurement = replace(measurement, path=str(final))
        self._write(scheme, file, final, plan, {"measurement": measurement}, overwrite=self.overwrite)
        rejected = rejected_path(final)
        for stale in (rejected, _manifest(rejected)):
            stale.unlink(missing_ok=True)
        return measurement

    def reject(
        self, scheme: Scheme, file: Path, plan: QuantizationPlan, measurement: Measurement, reason: str, *, bare: Path | None = None
    ) -> str:
        """Keep `file` as `<name>.rejected`, with a diagnosis in its manifest; returns the reason with what was found.

        `bare` is the file as it was before it was packed, with the float32 file's inputs and outputs."""
        rejected = rejected_path(final_path(self.out, self.source, scheme))
        diagnosis = self._diagnosis(bare or file)
        if diagnosis:
            # The files that were compared are temporary.
            diagnosis = replace(diagnosis, file=str(rejected), against=str(self.source.path))
        causes = [finding.cause for finding in diagnosis.findings[:1]] if diagnosis else []
        reason = "; ".join([reason, *causes, f"kept as {rejected}"])
        measured = {"measurement": replace(measurement, path=str(rejected)), "refused": reason, "diagnosis": diagnosis}
        self._write(scheme, file, rejected, plan, measured, overwrite=True)
        return reason

    def _diagnosis(self, file: Path) -> Diagnosis | None:
        """None where the file cannot be compared with its float32 one; it is rejected all the same."""
        rows = file.with_suffix(".rows")
        samples = Samples.load(self.data.held_out)
        samples.take_rows(range(min(_DIAGNOSED_ROWS, samples.row_count()))).save(rows)
        try:
            return diagnose(file, self.float_model.path, rows, data=self.data.description, threads=self.config.threads)
        except EdgekitError:
            return None

    def _write(
        self, scheme: Scheme, file: Path, final: Path, plan: QuantizationPlan, measured: Mapping[str, Any], *, overwrite: bool
    ) -> None:
        made = self.float_model
        with artifacts.published(
            final,
            "tflite",
            parents=self.parents,
            config={"scheme": scheme.name, **self.config.__dict__},
            tools=(*made.made_by, "ai-edge-quantizer", "ai-edge-litert"),
            measured={
                **measured,
                **({sizes.name: sizes} if (sizes := self.sizes.get(scheme.name)) else {}),
                "data": self.data.description,
                "plan": plan,
                "bridge": {"name": made.road, "tools": made.made_by, "failed": made.failed_roads},
                "parity": made.parity,
                "mask": made.mask,
                "steps": made.steps,
                "notes": list(self.notes),
                "task": self.data.task.name,
                "settings": self.data.settings,
            },
            manifest=_manifest(final),
            overwrite=overwrite,
        ) as draft:
            shutil.copyfile(file, draft.path)


def rejected_path(final: Path) -> Path:
    """Where a file is kept that was refused its name `final`."""
    return final.with_name(final.name + REJECTED)


def _manifest(file: Path) -> Path:
    """Beside a published file with `.json` in place of its suffix; behind the whole name of a rejected one."""
    return file.with_suffix(".json") if file.suffix == ".tflite" else file.with_name(f"{file.name}.json")


def read_plan(manifest: Path, parents: Mapping[str, str]) -> Form:
    """The int8 form that `manifest` records. Raises `ConfigError` if it has none or is of another model."""
    try:
        stored = read_json(manifest)
        content = stored["measured"]["plan"]["form"]
        form = serial.read(Form, content)
        sources = set(stored["parents"].values())
        # A key that is missing would be read as its default, another plan.
        if form.bits != 8 or serial.plain(form).keys() != content.keys():
            raise ValueError
    except OSError as error:
        raise ConfigError(f"{manifest}: cannot be read ({error.strerror}); give the .json beside an int8 file") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ConfigError(f"{manifest}: holds no int8 plan; give the .json that edgekit wrote beside an int8 file") from None
    if sources != set(parents.values()):
        models = ", ".join(stored["parents"])
        raise ConfigError(f"{manifest}: is the plan of another model ({models}); leave --plan out and a new one is searched")
    return form
