"""A Keras model as .h5 or .keras: its layers as its configuration names them, and the shapes of its weights; nothing is built.

HDF5's own library reads the file: call `read` in a worker child. The formats: keras/src/saving/saving_lib.py in
https://github.com/keras-team/keras, and what its legacy/saving/legacy_h5_format.py keeps of Keras 2."""

import io
import zipfile
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from edgekit.errors import ModelFormatError
from edgekit.models.structure.base import FREE, Axis, SourceTensor, Structure, Tally, counted, damaged_unless_read, member_json
from edgekit.system.serial import parse_json

_MOST_UNPACKED_BYTES = 2**28
_MOST_AXES = 64
_DEEPEST = 100
_WEIGHTS = "model.weights.h5"
# Groups that hold what training left.
_TRAINING = ("optimizer", "optimizer_weights", "metrics")
# Layers that leave a shape as it is, and those that leave batch and channels of one.
_KEEPING = ("Activation", "Dropout", "ELU", "LeakyReLU", "PReLU", "ReLU", "Softmax", "ThresholdedReLU")
_FLAT = ("Flatten", "GlobalAveragePooling1D", "GlobalAveragePooling2D", "GlobalMaxPooling1D", "GlobalMaxPooling2D")
_WRAPPER = "QuantizeWrapper"


def read(path: Path) -> Structure:
    """The structure of a Keras model in an .h5 or .keras file. Raises `ModelFormatError`."""
    with damaged_unless_read(path, "Keras model", "save the model again"):
        return _zipped(path) if path.suffix.lower() == ".keras" else _hdf5(path)


def _hdf5(path: Path) -> Structure:
    import h5py

    if zipfile.is_zipfile(path):
        raise ModelFormatError(f"{path}: is a .keras archive; give it that name")
    if not h5py.is_hdf5(path):
        raise ValueError("no HDF5 file")
    with h5py.File(path) as file:
        text = file.attrs.get("model_config")
        if text is None:
            raise ModelFormatError(
                f"{path}: holds weights alone, or no Keras model; load them into the model and save it whole with model.save()"
            )
        if not isinstance(file.get("model_weights", getlink=True), h5py.HardLink):
            raise ValueError("it has no weights of its own")
        version = str(file.attrs.get("keras_version", ""))
        return _described("HDF5", version, parse_json(text), _weights(file["model_weights"]))


def _zipped(path: Path) -> Structure:
    import h5py

    with zipfile.ZipFile(path) as archive:
        members = {member.filename: member for member in archive.infolist()}
        if "config.json" not in members:
            raise ValueError("a zip archive without config.json")
        config, about = (member_json(archive, name) if name in members else {} for name in ("config.json", "metadata.json"))
        tally = Tally()
        remarks: tuple[str, ...] = ()
        if (member := members.get(_WEIGHTS)) is None:
            remarks = (f"its weights are not in {_WEIGHTS}, and are not counted",)
        else:
            with archive.open(member) as stream, h5py.File(_seekable(stream, member)) as file:
                tally = _weights(file)
        return _described("Keras 3 archive", str(about.get("keras_version", "")), config, tally, remarks)


def _seekable(stream: IO[bytes], member: zipfile.ZipInfo) -> IO[bytes]:
    """A member as HDF5 wants it: as it lies in the archive, else unpacked."""
    if member.compress_type == zipfile.ZIP_STORED:
        return stream
    content = stream.read(_MOST_UNPACKED_BYTES + 1)
    if len(content) > _MOST_UNPACKED_BYTES:
        raise ValueError(f"{member.filename} unpacks to more than {_MOST_UNPACKED_BYTES >> 20} MB")
    return io.BytesIO(content)


def _weights(group: Any) -> Tally:
    import h5py

    tally = Tally()

    # Links to other files are not followed.
    def visit(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset) and name.split("/")[0] not in _TRAINING:
            tally.add(str(item.dtype), item.shape or ())

    group.visititems(visit)
    return tally


def _described(form: str, version: str, config: Any, tally: Tally, remarks: tuple[str, ...] = ()) -> Structure:
    model = _Model(config)
    classes = Counter(kind for kind, _ in model.parts() if kind != "InputLayer")
    inputs, outputs = model.inputs(), model.outputs()
    obstacles = []
    if not inputs:
        obstacles.append("the Keras model was saved before its inputs were known; build it and save it again")
    if "Lambda" in classes:
        name = next(name for kind, name in model.parts() if kind == "Lambda")
        obstacles.append(f"Lambda layer {name} holds Python code, which is not loaded; use a Keras layer in its place")
    if any(kind.startswith(_WRAPPER) for kind in classes):
        remarks += ("trained quantization-aware: it brings its int8 file, which needs no rows",)
    return Structure(
        form=f"{form}, {model.kind}",
        producer=f"Keras {version}" if version else "",
        inputs=inputs,
        outputs=outputs,
        parts="layer",
        ops=counted({(kind, ""): count for kind, count in classes.items()}),
        weights=tally.weights,
        obstacles=tuple(obstacles),
        remarks=remarks,
    )


class _Model:
    """A Functional or Sequential model's configuration, of Keras 2 or 3."""

    def __init__(self, config: Any) -> None:
        self.kind = str(config["class_name"])
        inside = config["config"]
        # Keras 2.2 wrote the list of a Sequential's layers alone.
        self.config: Mapping[str, Any] = inside if isinstance(inside, Mapping) else {"layers": inside}
        layers = self.config.get("layers") or []
        self.layers = {_name(layer): layer for layer in layers}

    def parts(self) -> Iterator[tuple[str, str]]:
        """Class and name of each layer, those of models inside it in the place of these."""
        yield from _parts(self.layers.values(), 0)

    def inputs(self) -> tuple[SourceTensor, ...]:
        if "input_layers" in self.config:
            return tuple(_input(self.layers[name], name) for name in _ends(self.config["input_layers"]))
        first = next(iter(self.layers.values()), None)
        if first is None or _declared(first) is None:
            return ()
        name = _name(first) if first["class_name"] == "InputLayer" else f"{_name(first)}_input"
        return (_input(first, name),)

    def outputs(self) -> tuple[SourceTensor, ...]:
        names = _ends(self.config["output_layers"]) if "output_layers" in self.config else list(self.layers)[-1:]
        return tuple(SourceTensor(name, _dtype(self.layers[name]), self._shape(name)) for name in names)

    def _shape(self, name: str) -> tuple[Axis, ...] | None:
        """What a layer gives, as far as that is known without building it."""
        units: Axis | None = None
        for _ in range(_DEEPEST):
            layer = self.layers.get(name)
            if layer is None:
                return None
            kind, source = layer["class_name"], _source(layer) or self._before(name)
            fed = _sizes((layer.get("build_config") or {}).get("input_shape")) or (source or (None, None))[1]
            if kind == "Dense":
                units = int(layer["config"]["units"]) if units is None else units
                if fed is not None:
                    return (*fed[:-1], units)
            elif kind in _FLAT and units is not None:
                return (FREE, units)
            elif kind == "InputLayer":
                declared = _declared(layer)
                return declared if units is None or declared is None else (*declared[:-1], units)
            elif kind not in _KEEPING:
                return None
            elif fed is not None:
                return fed if units is None else (*fed[:-1], units)
            if source is None:
                return None
            name = source[0]
        return None

    def _before(self, name: str) -> tuple[str, tuple[Axis, ...] | None] | None:
        """The layer before one of a Sequential model, which does not name it."""
        names = list(self.layers)
        place = names.index(name)
        return (names[place - 1], None) if place and "input_layers" not in self.config else None


def _parts(layers: Any, depth: int) -> Iterator[tuple[str, str]]:
    if depth > _DEEPEST:
        raise ValueError(f"models inside models, {_DEEPEST} deep")
    for layer in layers:
        inside = layer["config"]
        held = inside.get("layers") if isinstance(inside, Mapping) else inside
        if isinstance(held, list):
            yield from _parts(held, depth + 1)
        else:
            yield str(layer["class_name"]), _name(layer)


def _name(layer: Any) -> str:
    inside = layer["config"]
    return str(layer.get("name") or (inside.get("name", "") if isinstance(inside, Mapping) else ""))


def _ends(listed: Any) -> list[str]:
    """Names of layers among [name, node, tensor], one of these or several, listed or by key."""
    if isinstance(listed, Mapping):
        listed = list(listed.values())
    if listed and isinstance(listed[0], str):
        return [listed[0]]
    return [name for item in listed for name in _ends(item)]


def _input(layer: Any, name: str) -> SourceTensor:
    return SourceTensor(name, _dtype(layer), _declared(layer))


def _declared(layer: Any) -> tuple[Axis, ...] | None:
    """The shape of what a layer is fed, as it was told when it was made."""
    config = layer["config"]
    told = config.get("batch_shape") or config.get("batch_input_shape") if isinstance(config, Mapping) else None
    return _sizes(told)


def _sizes(told: Any) -> tuple[Axis, ...] | None:
    if not isinstance(told, list) or len(told) > _MOST_AXES or not all(size is None or isinstance(size, int) for size in told):
        return None
    return tuple(FREE if size is None else size for size in told)


def _dtype(layer: Any) -> str:
    """What a layer computes in, whose policy may be described."""
    config = layer["config"]
    told = config.get("dtype") if isinstance(config, Mapping) else None
    if isinstance(told, Mapping):
        told = (told.get("config") or {}).get("name")
    return str(told).removeprefix("mixed_") if isinstance(told, str) else "float32"


def _source(layer: Any) -> tuple[str, tuple[Axis, ...] | None] | None:
    """The first layer that one of a Functional model reads, and the shape that it gives where that is told."""
    part: Any = layer.get("inbound_nodes")
    for _ in range(_DEEPEST):
        if isinstance(part, Mapping) and "args" in part:
            part = part["args"]
        elif isinstance(part, Mapping) and "keras_history" in (part.get("config") or {}):
            return str(part["config"]["keras_history"][0]), _sizes(part["config"].get("shape"))
        elif isinstance(part, list) and part:
            part = part[0]
        else:
            return (part, None) if isinstance(part, str) else None
    return None
