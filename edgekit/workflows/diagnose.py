"""Diagnose a .tflite file that is there already: its data encoded, its layers judged, the result written."""

import tempfile
from collections.abc import Callable
from pathlib import Path

from edgekit.measure.examine import Diagnosis, check, diagnose
from edgekit.measure.judge import check_threads
from edgekit.spec import shown
from edgekit.system import artifacts
from edgekit.system.worker import Progress
from edgekit.workflows.assess import Data, encode_for


def diagnose_file(
    file: Path, against: Path, data: Data, *, threads: int, seed: int, on_progress: Callable[[Progress], None] | None = None
) -> Diagnosis:
    """`diagnose` on a data set; the tokenizer lies beside either file. Raises what that and `encode_for` raise."""
    check_threads(threads)
    check(file, against)
    with tempfile.TemporaryDirectory(prefix="edgekit-diagnose-") as room:
        # edgekit keeps the tokenizer beside its own files; a file from elsewhere often lies alone.
        beside = file if (file.parent / "tokenizer.json").is_file() or data.tokenizer is not None else against
        encode_for(beside, data, seed, Path(room)).save(Path(room) / "samples")
        return diagnose(file, against, Path(room) / "samples", data=shown(data.dataset), threads=threads, on_progress=on_progress)


def write(diagnosis: Diagnosis, kind: str, target: Path) -> None:
    """Publish it as `html`, `markdown` or `json`. Raises `OutputError`."""
    from edgekit.report.diagnosis import markdown, page

    render: dict[str, Callable[[Diagnosis], str]] = {"html": page, "markdown": markdown, "json": artifacts.to_json}
    artifacts.write_text(target, render[kind](diagnosis))
