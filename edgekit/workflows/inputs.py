"""What a .tflite says of its task, tokenizer, labels and normalization, and rows of a data set in the form that it takes."""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from edgekit.data import sources
from edgekit.data.encode import Encoding, refuse_statistics
from edgekit.data.representative import draw
from edgekit.data.samples import Samples
from edgekit.data.sources import Rows
from edgekit.data.text import open_tokenizer
from edgekit.errors import CheckpointError, ModelFormatError
from edgekit.spec import DataSpec, Signature, TensorSpec
from edgekit.stages.quantize.schemes import SCHEMES
from edgekit.system import artifacts
from edgekit.system.serial import read_json
from edgekit.tasks.base import Task
from edgekit.tasks.classification import ACTIVATIONS
from edgekit.tasks.generic import GENERIC
from edgekit.tasks.recognition import named, recognise
from edgekit.tflite import flatbuffer, metadata, package
from edgekit.tflite.flatbuffer import ModelFile
from edgekit.tflite.package import LABELS, TOKENIZER

_NUMBERS = list | tuple, int | float
_MANIFEST_KINDS = {"mean": _NUMBERS, "std": _NUMBERS}
# What a file may say of itself, inside or beside it.
_KINDS = {
    **_MANIFEST_KINDS,
    "activation": (str,),
    "channels_first": (list | tuple, str),
    "edgekit": (str,),
    "labels": (list | tuple, str),
    "lower_case_texts": (bool,),
    "max_length": (int,),
    "normalized": (bool,),
    "pairs": (bool,),
    "pooling": (list | tuple, str),
    "problem": (str,),
    "prompt": (str,),
    "task": (str,),
    "threshold": (int | float,),
}
_CHOICES = {"activation": tuple(ACTIVATIONS.values()), "problem": tuple(ACTIVATIONS)}


def manifest_of(file: Path) -> dict[str, Any]:
    """What edgekit wrote beside `file`, or nothing if it is not ours or the file has changed since."""
    beside = file.with_suffix(".json")
    try:
        manifest = read_json(beside)
        written = file.stat()
        digest = _digest(file, written.st_mtime_ns, written.st_size)
        ours = manifest["kind"] == "tflite" and manifest["path"] == file.name and manifest["sha256"] == digest
        return manifest if ours and _is_whole(manifest["config"], manifest["measured"]) else {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


@lru_cache(maxsize=64)
def _digest(file: Path, changed: int, size: int) -> str:
    """A command asks for the same manifest several times; `changed` and `size` tell another content."""
    return artifacts.sha256(file)


def _is_whole(config: Mapping[str, Any], measured: Mapping[str, Any]) -> bool:
    figures, plan, data = measured["measurement"], measured["plan"], measured.get("data", "")
    typed = isinstance(figures, Mapping) and isinstance(plan, Mapping | None) and isinstance(data, str)
    return typed and config["scheme"] in SCHEMES and _misfit(config, _MANIFEST_KINDS) is None


def _misfit(settings: Mapping[str, Any], kinds: Mapping[str, Any]) -> str | None:
    """The first of the settings that is there and of another type; the items of a list are as its second type says."""
    for name, (kind, *items) in kinds.items():
        if (value := settings.get(name)) is not None and not (
            isinstance(value, kind) and all(isinstance(item, of) for of in items for item in value)
        ):
            return name
    return None


def encode_for(file: Path, spec: DataSpec, folder: Path, task: str | None = None) -> Samples:
    """The data set as samples for a .tflite file's task, or for `task`; large arrays lie under `folder`.

    Raises `DatasetError`, `ModelFormatError`, and `ConfigError` for a task that is not known."""
    content = flatbuffer.read(file)
    signature, stored = content.signature(content.entry()).of_one_row(), settings_of(content)
    rows, how, settings = rows_for(spec, stored, signature, task)
    return how.encode(rows, signature.inputs, encoding_of(content, stored, spec, folder), settings, folder)


def rows_for(
    spec: DataSpec, stored: Mapping[str, Any], signature: Signature, task: str | None = None
) -> tuple[Rows, Task, dict[str, Any]]:
    """The rows that are judged on, drawn; the task of a file with these `stored` settings, and the settings it is read with.

    Raises `DatasetError` and `ConfigError`."""
    rows = sources.feeding(sources.read(spec, (named(stored, task) or GENERIC).columns), signature.inputs)
    refuse_statistics(rows, spec.mean, spec.std)
    how, settings = recognise(stored, signature.outputs, rows, task)
    if spec.samples is not None:
        rows = sources.take(rows, draw(rows, spec.samples, spec.seed))
    return rows, how, settings


def settings_of(content: ModelFile) -> dict[str, Any]:
    """What a .tflite says of its task and of how rows are fed and outputs read: inside, else in the manifest beside it.

    Raises `ModelFormatError` for metadata or settings that are damaged."""
    path, signature = Path(content.path), content.signature(content.entry())
    settings = package.settings(path)
    if "task" not in settings and [len(spec.shape) for spec in (*signature.inputs, *signature.outputs[:1])] == [4, 2]:
        # An image classifier of TFLite Metadata says no more of its task than this.
        names = package.read_files(path, (LABELS,)).get(LABELS, b"").decode(errors="replace").splitlines()
        settings = ({"labels": names, "task": "image-classification"} if names else {}) | settings
    manifest = manifest_of(path)
    config, measured = manifest.get("config", {}), manifest.get("measured", {})
    statistics = config.get("mean"), config.get("std")
    if statistics == (None, None):
        try:
            statistics = metadata.normalization(content.model_metadata)
        except ModelFormatError as error:
            raise ModelFormatError(f"{path}: {error}; convert or download it again") from None
    beside = {"mean": statistics[0], "std": statistics[1], "task": measured["measurement"].get("task") if measured else None}
    told = {name: value for name, value in beside.items() if value} | settings
    odd = (name for name, choices in _CHOICES.items() if told.get(name, choices[0]) not in choices)
    if (name := _misfit(told, _KINDS) or next(odd, None)) is not None:
        raise ModelFormatError(f"{path}: its setting {name} is {str(told[name])[:80]}; convert it again")
    return told


def read_task(content: ModelFile, name: str | None = None) -> tuple[Task, dict[str, Any]]:
    """The task of a .tflite and its settings, by what travels in it; `name` is for one that says nothing.

    Settings always say whether rows are `pairs`. Raises `ModelFormatError` for a file whose metadata or settings are damaged or
    whose labels do not fit its first output, and `ConfigError` for an unknown task."""
    signature = content.signature(content.entry())
    task, settings = recognise(settings_of(content), signature.outputs, None, name)
    if "activation" in settings and "edgekit" not in settings and signature.outputs:
        from edgekit.stages.quantize.mediapipe import gives_probabilities

        settings["activation"] = "none" if gives_probabilities(content) else settings["activation"]
    settings.setdefault("pairs", task.columns.pairs or "token_type_ids" in signature.input_names)
    # Without an activation no output has scores for them.
    labels = [str(label) for label in settings.get("labels", ())] if "activation" in settings else []
    if labels and (size := classes_of(signature.outputs)) not in (None, len(labels)):
        raise ModelFormatError(
            f"{content.path}: names {len(labels)} labels but gives {size} scores; convert it again with the right labels"
        )
    if len(set(labels)) < len(labels):
        labels = [f"{number} {label}" if labels.count(label) > 1 else label for number, label in enumerate(labels)]
    return task, {**settings, "labels": labels}


def encoding_of(content: ModelFile, settings: Mapping[str, Any], spec: DataSpec, folder: Path) -> Encoding:
    """What the rows of a .tflite file are encoded with: by `spec`, else by what the file says, which is in `settings`.

    A tokenizer that travels in the file is unpacked under `folder`; it goes before one that lies beside the file. Raises
    `CheckpointError`, and `ModelFormatError` for one in the file that cannot be used."""
    folder /= "tokenizer"
    tokenizer = package.tokenizer_of(Path(content.path), folder) if spec.tokenizer is None else tokenizer_in(spec.tokenizer)
    signature = content.signature(content.entry())
    if tokenizer == folder and signature.inputs and len(shape := signature.inputs[0].shape) == 2:
        try:
            open_tokenizer(folder, shape[1], pair=bool(settings.get("pairs")))
        except CheckpointError as error:
            cause = error.message.removeprefix("its tokenizer: ").partition("; save it")[0]
            raise ModelFormatError(f"{content.path}: its {TOKENIZER} is damaged ({cause}); convert or download it again") from None
    mean, std = spec.mean, spec.std
    of_images = mean is None and std is None
    if of_images:
        mean, std = (tuple(settings[name]) if settings.get(name) else None for name in ("mean", "std"))
        # What the user told edgekit holds for arrays, too.
        path = Path(content.path)
        stored = package.settings(path), manifest_of(path).get("config", {})
        of_images = not any(told.get(name) for told in stored for name in ("mean", "std"))
    return Encoding(
        tokenizer,
        classes_of(signature.outputs),
        mean=mean,
        std=std,
        pairs=settings.get("pairs"),
        channels_first=tuple(settings.get("channels_first", ())),
        of_images=of_images,
    )


def tokenizer_in(folder: Path) -> Path:
    """A tokenizer that a user named, by its folder or its file. Raises `CheckpointError` for a folder without one."""
    # Predict starts without what knows checkpoints.
    from edgekit.models.checkpoint import tokenizer_folder

    return folder if folder.is_file() else tokenizer_folder(folder)


def classes_of(outputs: Sequence[TensorSpec]) -> int | None:
    """The size of the first output's last axis, where it is fixed."""
    shape = outputs[0].shape if outputs else ()
    return shape[-1] if shape and shape[-1] > 0 else None


def model_name(file: Path, scheme: str | None) -> str:
    """What a file's model is called: its stem without the scheme."""
    return file.stem.removesuffix(f"_{scheme}") if scheme else file.stem


def scheme_of(file: Path) -> str | None:
    """The scheme that its manifest names."""
    scheme = manifest_of(file).get("config", {}).get("scheme")
    return scheme if isinstance(scheme, str) else None
