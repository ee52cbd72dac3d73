"""Diagnose a .tflite file that is there already: its data encoded, its layers judged, the result written."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from edgekit.measure import examine
from edgekit.measure.examine import Diagnosis
from edgekit.spec import DataSpec, shown
from edgekit.system import artifacts, rooms, serial, settings
from edgekit.system.settings import Checked, setting
from edgekit.system.worker import OnProgress
from edgekit.tflite import flatbuffer
from edgekit.workflows.inputs import encode_for, settings_of


@dataclass(frozen=True)
class DiagnoseConfig(Checked):
    """`against` is the float32 file that the examined one was made of, `data` the rows that both are run on."""

    against: Path = setting(words="The float32 .tflite that FILE was made of.")
    data: DataSpec = setting()
    task: str | None = settings.task()
    threads: int = settings.threads()


def diagnose(file: str | Path, config: DiagnoseConfig, *, on_progress: OnProgress = None) -> Diagnosis:
    """Why `file` is wrong or slow; tokenizer and task are told by either file.

    Raises what `measure.examine.diagnose` and `encode_for` raise."""
    file, against, data = Path(file), Path(config.against), config.data
    examine.check(file, against)
    with rooms.temporary("diagnose") as room:
        # edgekit keeps the tokenizer beside its own files; a file from elsewhere often lies alone.
        tells = settings_of(flatbuffer.read(file)) or (file.parent / "tokenizer.json").is_file() or data.tokenizer is not None
        encode_for(file if tells else against, data, Path(room), config.task).save(Path(room) / "samples")
        return examine.diagnose(
            file, against, Path(room) / "samples", data=shown(data.origin), threads=config.threads, on_progress=on_progress
        )


def write(diagnosis: Diagnosis, target: Path) -> None:
    """Publish it as the name of `target` says: .html, .md or .json. Raises `OutputError`."""
    from edgekit.report.diagnosis import markdown, page

    render: dict[str, Callable[[Diagnosis], str]] = {".html": page, ".md": markdown, ".json": serial.to_json}
    artifacts.write_text(target, render[target.suffix.lower()](diagnosis))
