"""A checkpoint: its config.json, and the headers of its safetensors files.

The format: https://github.com/huggingface/safetensors, README.md."""

from collections.abc import Sequence
from pathlib import Path

from edgekit.errors import CheckpointError, EdgekitError
from edgekit.models.checkpoint import PICKLED, SAFE, Checkpoint
from edgekit.models.structure.base import FREE, SourceTensor, Structure, Tally
from edgekit.spec import TensorSpec
from edgekit.system.serial import parse_json

_DTYPES = {
    "BOOL": "bool",
    "U8": "uint8",
    "I8": "int8",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
    "F8_E8M0": "float8_e8m0fnu",
    "U16": "uint16",
    "I16": "int16",
    "F16": "float16",
    "BF16": "bfloat16",
    "U32": "uint32",
    "I32": "int32",
    "F32": "float32",
    "U64": "uint64",
    "I64": "int64",
    "F64": "float64",
    "C64": "complex64",
}
_LENGTH = 8
# The format allows 100 MB; 100,000 tensors take a tenth of it.
_MOST_HEADER_BYTES = 2**25
_MOST_AXES = 64
_MOST_LABELS = 10
_AGAIN = "copy or download it again"


def read(checkpoint: Checkpoint, specs: Sequence[TensorSpec]) -> Structure:
    """The structure of a checkpoint that is fed `specs`. Raises `CheckpointError` for damaged weights."""
    path, config = checkpoint.path, checkpoint.config
    tally = Tally()
    safe, pickled = sorted(path.glob(SAFE)), sorted(path.glob(PICKLED))
    for file in safe:
        _add(file, tally)
    obstacles = [] if safe or pickled else ["holds no weights (model.safetensors); give a folder that save_pretrained wrote"]
    checks = (checkpoint.refuse_other_head, lambda: checkpoint.tokenizer, lambda: checkpoint.labels)
    for check in checks:
        try:
            check()
        except EdgekitError as error:
            obstacles.append(error.message.removeprefix(f"{path}: "))
    named = config.get("architectures")
    heads = [str(name) for name in named] if isinstance(named, list) else []
    if heads and not checkpoint.has_head and not obstacles:
        obstacles.append(f"has no {checkpoint.task.name} head ({heads[0]}); run edgekit finetune on it first")
    labels = checkpoint.settings.get("labels", ()) if not obstacles else ()
    remarks = (
        [f"labels: {', '.join(map(str, labels[:_MOST_LABELS]))}{', …' if len(labels) > _MOST_LABELS else ''}"] if labels else []
    )
    if (sentence := checkpoint.sentence_head) is not None:
        settings = sentence.settings
        unit = ", of length 1" if settings["normalized"] else ""
        remarks.append(f"a text's vector: {' and '.join(settings['pooling'])} of its tokens{unit}")
    remarks += [f"takes up to {checkpoint.longest:,} tokens"] if checkpoint.longest else []
    remarks += [f"knows {checkpoint.vocabulary:,} tokens"] if checkpoint.vocabulary else []
    if not safe and pickled:
        remarks.append("its weights are pickled, and are not looked into here")
    return Structure(
        form=f"checkpoint, {', '.join([*heads, checkpoint.model_type])}",
        producer=f"transformers {config['transformers_version']}" if isinstance(config.get("transformers_version"), str) else "",
        inputs=tuple(SourceTensor(spec.name, spec.dtype, (FREE, "tokens")) for spec in specs),
        outputs=tuple(SourceTensor(name, "float32", None) for name in checkpoint.task.outputs),
        weights=tally.weights,
        files={file.name: file.stat().st_size for file in sorted(path.iterdir()) if file.is_file()},
        obstacles=tuple(obstacles),
        remarks=tuple(remarks),
    )


def _add(file: Path, tally: Tally) -> None:
    try:
        size = file.stat().st_size
        with file.open("rb") as stream:
            length = int.from_bytes(stream.read(_LENGTH), "little")
            if length > min(size - _LENGTH, _MOST_HEADER_BYTES):
                raise ValueError(f"its header should have {length:,} bytes")
            header = parse_json(stream.read(length))
        end = 0
        for name, tensor in header.items():
            if name == "__metadata__":
                continue
            shape, (start, stop) = tensor["shape"], tensor["data_offsets"]
            if not all(isinstance(one, int) and one >= 0 for one in (*shape, start, stop)) or len(shape) > _MOST_AXES:
                raise ValueError(f"tensor {name[:80]} has an impossible shape or place")
            end = max(end, stop)
            tally.add(_DTYPES.get(tensor["dtype"], "?"), shape, stop - start)
        if _LENGTH + length + end != size:
            raise ValueError(f"its tensors should end at byte {_LENGTH + length + end:,} of {size:,}")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        cause = str(error) if isinstance(error, OSError | ValueError) else "its header names no tensors"
        raise CheckpointError(f"{file}: not a readable safetensors file ({cause}); {_AGAIN}") from None
