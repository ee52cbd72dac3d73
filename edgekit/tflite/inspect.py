"""What a .tflite file is made of: signatures, ops, sizes, quantization, metadata, and how the CPU delegate splits it."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from edgekit.errors import EdgekitError, ModelFormatError, WorkerCrashed
from edgekit.spec import Signature, TensorSpec
from edgekit.system.artifacts import sha256
from edgekit.system.wording import count, short
from edgekit.system.worker import Worker
from edgekit.tflite import flatbuffer, metadata
from edgekit.tflite.flatbuffer import ModelFile, Operator, Subgraph
from edgekit.tflite.metadata import ModelMetadata
from edgekit.tflite.op_versions import needed_runtime

_LARGEST = 10
_PROBE_SECONDS = 60.0
_PROBE_BYTES = 2 * 2**30
# What an integer accelerator can hold; a resource is a variable's handle.
_INTEGERS = ("int", "uint", "bool", "resource")
# Ops whose input at this place is a bias: its dtype follows from the others and would hide them.
_BIAS = {"FULLY_CONNECTED": 2, "CONV_2D": 2, "DEPTHWISE_CONV_2D": 2, "CONV_3D": 2, "TRANSPOSE_CONV": 3, "CONV_3D_TRANSPOSE": 3}


@dataclass(frozen=True)
class OpGroup:
    """`count` ops of one name whose tensors have the same dtypes: the distinct ones in order of place, biases left out."""

    name: str
    custom: bool
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    count: int

    def __str__(self) -> str:
        return f"{self.name} {' x '.join(self.inputs) or 'nothing'} -> {' x '.join(self.outputs) or 'nothing'}: {self.count}"


@dataclass(frozen=True)
class TensorSize:
    """A constant tensor and the bytes of its data in the file."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    data_bytes: int


@dataclass(frozen=True)
class Quantization:
    """How many tensors have one scale, one for each channel, or one for each block."""

    per_tensor: int
    per_channel: int
    blockwise: int


@dataclass(frozen=True)
class Delegation:
    """How XNNPACK splits the first subgraph: `delegated_ops` of its `ops` run in `partitions` pieces."""

    partitions: int
    delegated_ops: int
    ops: int


@dataclass(frozen=True)
class Summary:
    """What `inspect` found.

    `signature` is the one that is run by default (`serving_default`, else the first, else the first subgraph by its
    tensors' names); `signatures` are those that the file has. `min_runtime_version` is what the file states, or what its op
    versions call for where that is later. `data_bytes` counts constant data, each buffer once.
    `integer_only` means: there are ops, and all that the ops of any subgraph read or write are integers, booleans and
    variables' handles, so no float tensor takes part anywhere. `associated_files` are those behind the model, with their bytes.
    `probe_failure` says why `delegation` is None, `metadata_failure` why `model_metadata` is or what it names in vain."""

    path: str
    size_bytes: int
    sha256: str
    schema_version: int
    description: str
    min_runtime_version: str
    signature: Signature
    signatures: Mapping[str, Signature]
    subgraphs: int
    ops: int
    op_groups: tuple[OpGroup, ...]
    data_bytes: int
    largest_tensors: tuple[TensorSize, ...]
    quantization: Quantization
    sparse_tensors: int
    integer_only: bool
    flex_ops: tuple[str, ...]
    custom_ops: tuple[str, ...]
    metadata: Mapping[str, int]
    model_metadata: ModelMetadata | None
    metadata_failure: str | None
    associated_files: Mapping[str, int]
    external_files: tuple[str, ...]
    delegation: Delegation | None
    probe_failure: str | None


def inspect(path: str | Path, *, probe: bool = True) -> Summary:
    """Summarise the .tflite file at `path` without TensorFlow; `probe` loads it in a child to count delegate partitions.

    A child that fails or crashes is told in `probe_failure`. Raises `ModelFormatError` for a file that is none."""
    path = Path(path)
    file = flatbuffer.read(path)
    delegation, probe_failure = _probe(path) if probe else (None, None)
    files = metadata.associated_files(path)
    model_metadata = metadata_failure = None
    try:
        model_metadata = metadata.parse(file.model_metadata) if file.model_metadata else None
    except ModelFormatError as error:
        metadata_failure = error.message
    if model_metadata is not None and (missing := [item.name for item in model_metadata.all_files if item.name not in files]):
        metadata_failure = f"it names {', '.join(missing)}, which is not behind the model"
    groups = Counter(_group(graph, operator) for graph in file.subgraphs for operator in graph.operators)
    constants = _constants(file)
    tensors = [tensor for graph in file.subgraphs for tensor in graph.tensors]
    by_scales = Counter("blockwise" if one.blockwise else min(one.scales, 2) for one in tensors)
    return Summary(
        path=str(path),
        size_bytes=file.size_bytes,
        sha256=sha256(path),
        schema_version=file.version,
        description=file.description,
        min_runtime_version=needed_runtime(file),
        signature=file.signature(file.entry()) if file.subgraphs else Signature((), ()),
        signatures={entry.key: file.signature(entry) for entry in file.entries},
        subgraphs=len(file.subgraphs),
        ops=groups.total(),
        op_groups=tuple(OpGroup(*key, count) for key, count in sorted(groups.items(), key=lambda item: (-item[1], item[0]))),
        data_bytes=sum(tensor.data_bytes for tensor in constants),
        largest_tensors=tuple(constants[:_LARGEST]),
        quantization=Quantization(per_tensor=by_scales[1], per_channel=by_scales[2], blockwise=by_scales["blockwise"]),
        sparse_tensors=sum(tensor.sparse for tensor in tensors),
        integer_only=bool(groups) and all(name.startswith(_INTEGERS) for name in _dtypes_of_ops(file)),
        flex_ops=file.flex_ops,
        custom_ops=file.custom_ops,
        metadata=dict(file.metadata),
        model_metadata=model_metadata,
        metadata_failure=metadata_failure,
        associated_files=files,
        external_files=file.external_files,
        delegation=delegation,
        probe_failure=probe_failure,
    )


def describe(summary: Summary) -> str:
    """A summary as text for a person, one fact a line."""
    lines = [
        f"{summary.path}: {summary.size_bytes:,} bytes, schema {summary.schema_version}, sha256 {summary.sha256}",
        *([f"description: {summary.description}"] if summary.description else []),
        *([f"needs runtime {summary.min_runtime_version} or later"] if summary.min_runtime_version else []),
    ]
    for key, signature in (summary.signatures or {"": summary.signature}).items():
        nameless = "no signature" + ("; tensors' own names:" if signature.inputs or signature.outputs else "")
        lines.append(f"signature {key}" if key else nameless)
        lines += [f"  input  {_line(spec)}" for spec in signature.inputs]
        lines += [f"  output {_line(spec)}" for spec in signature.outputs]
    lines.append(f"{count(summary.ops, 'op')} in {count(summary.subgraphs, 'subgraph')}")
    lines += [f"  {group}{' (custom)' if group.custom else ''}" for group in summary.op_groups]
    if (split := summary.delegation) is not None:
        where = " of the first subgraph" if summary.subgraphs > 1 else ""
        pieces = count(split.partitions, "partition")
        lines.append(f"XNNPACK: {split.delegated_ops} of {count(split.ops, 'op')}{where} in {pieces}")
    if summary.probe_failure is not None:
        lines.append(f"XNNPACK: not known, {summary.probe_failure}")
    lines.append(f"{summary.data_bytes:,} bytes of constant data" + ("; largest tensors:" if summary.largest_tensors else ""))
    largest = summary.largest_tensors
    lines += [f"  {item.data_bytes:>12,}  {item.dtype} {_shape(item.shape)}  {short(item.name)}" for item in largest]
    counts = summary.quantization
    lines.append(
        f"quantized tensors: {counts.per_tensor} per-tensor, {counts.per_channel} per-channel, {counts.blockwise} blockwise; "
        f"sparse tensors: {summary.sparse_tensors}"
    )
    lines.append(f"integer only: {'yes' if summary.integer_only else 'no'}")
    named = {"Flex ops": summary.flex_ops, "custom ops": summary.custom_ops, "metadata": summary.metadata}
    lines += [f"{what}: {', '.join(names)}" for what, names in named.items() if names]
    lines += [f"metadata: {summary.metadata_failure}"] if summary.metadata_failure else []
    lines += _metadata_lines(summary.model_metadata) if summary.model_metadata else []
    sizes = [f"{name} ({size:,} bytes)" for name, size in summary.associated_files.items()]
    named = {"associated files": sizes, "constant data in other files": summary.external_files}
    lines += [f"{what}: {', '.join(names)}" for what, names in named.items() if names]
    return "\n".join(lines)


def _metadata_lines(model: ModelMetadata) -> list[str]:
    facts = {"name": model.name, "description": model.description, "version": model.version, "author": model.author}
    facts |= {"licence": model.license, "vocabulary": model.vocabulary.name if model.vocabulary else ""}
    lines = [f"  {name}: {' '.join(text.split())}" for name, text in facts.items() if text]
    for kind, tensors in (("input", model.inputs), ("output", model.outputs)):
        for item in tensors:
            said = [f"mean {', '.join(map(str, item.mean))}, std {', '.join(map(str, item.std))}"] if item.mean or item.std else []
            said += [f"scores from {item.score_threshold:g}"] if item.score_threshold is not None else []
            said += [f"labels in {file.name}" for file in item.files if file.kind == metadata.AXIS_LABELS]
            said += [] if said else [" ".join(item.description.split())]
            lines.append(f"  {kind} {item.name}: {'; '.join(said)}".rstrip(": "))
    return lines


def _line(spec: TensorSpec) -> str:
    scale = f", scale {spec.scale:.6g}, zero point {spec.zero_point}" if spec.scale is not None else ""
    return f"{short(spec.name)}: {spec.dtype} {_shape(spec.shape)}{scale}"


def _shape(shape: tuple[int, ...]) -> str:
    return f"[{', '.join('any' if size == -1 else str(size) for size in shape)}]"


def _group(graph: Subgraph, operator: Operator) -> tuple[str, bool, tuple[str, ...], tuple[str, ...]]:
    def dtypes(indices: tuple[int, ...], bias: int | None = None) -> tuple[str, ...]:
        kept = (index for place, index in enumerate(indices) if index != -1 and place != bias)
        return tuple(dict.fromkeys(graph.tensors[index].dtype for index in kept))

    return operator.name, operator.custom, dtypes(operator.inputs, _BIAS.get(operator.name)), dtypes(operator.outputs)


def _dtypes_of_ops(file: ModelFile) -> set[str]:
    return {
        graph.tensors[index].dtype
        for graph in file.subgraphs
        for operator in graph.operators
        for index in (*operator.inputs, *operator.outputs)
        if index != -1
    }


def _constants(file: ModelFile) -> list[TensorSize]:
    by_buffer: dict[int | str, TensorSize] = {}
    for tensor in (tensor for graph in file.subgraphs for tensor in graph.tensors if tensor.data_bytes):
        # Buffer 0 is the empty one; a tensor that has data all the same keeps it in another file.
        size = TensorSize(tensor.name, tensor.dtype, tensor.shape, tensor.data_bytes)
        by_buffer.setdefault(tensor.buffer or tensor.name, size)
    return sorted(by_buffer.values(), key=lambda tensor: -tensor.data_bytes)


def _probe(path: Path) -> tuple[Delegation | None, str | None]:
    worker = Worker(timeout_s=_PROBE_SECONDS, memory_bytes=_PROBE_BYTES + 8 * path.stat().st_size)
    try:
        return worker.run(_delegation, path).value, None
    except WorkerCrashed as error:
        return None, f"the interpreter crashed while loading the file ({error.message})"
    except EdgekitError as error:
        return None, error.message.removeprefix(f"{path}: ")


def _delegation(path: Path) -> Delegation:
    from edgekit.tflite.interpreter import Model

    model = Model(path)
    return Delegation(model.partitions, model.delegated_ops, model.ops)
