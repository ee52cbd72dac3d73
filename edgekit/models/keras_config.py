"""What a Keras file says of its layers, looked through before Keras builds any of them, and where it points to outside itself."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from edgekit.errors import ModelFormatError

# Classes of layers that are a Python function, stored as bytecode, or call a method of what they are given by its name.
PYTHON_CODE = {"Lambda", "ClassMethod", "InstanceMethod", "TensorFlowOpLayer", "JaxLayer", "FlaxLayer", "TorchModuleWrapper"}
# Those that read a file by the path that their configuration says.
READERS = {"TFSMLayer", "StringLookup", "IntegerLookup", "TextVectorization"}


def refuse_code(source: Path, config: Any, fault: Callable[[Mapping[str, Any]], str | None]) -> None:
    """Raise `ModelFormatError` for the first object of a configuration, at any depth, of which `fault` says what is wrong."""
    for part in _objects(config):
        kind, inner = str(part["class_name"]), part.get("config")
        if (what := fault(part)) is not None:
            name = inner.get("name") if isinstance(inner, Mapping) else None
            called = f"{kind} layer {name}" if name else f"its {kind} {inner}" if isinstance(inner, str) else f"its {kind}"
            raise ModelFormatError(
                f"{source}: {called} {what}, so edgekit does not load it; use a Keras layer or a tf op "
                "in its place, or save the model as a SavedModel"
            )


def forbidden(kind: str) -> str | None:
    """What is wrong with a class of layers, whatever its configuration says."""
    if kind in PYTHON_CODE:
        return "holds Python code"
    return "reads a file that its configuration names" if kind in READERS else None


def _objects(config: Any) -> Iterator[dict[str, Any]]:
    """Each object that a model's configuration describes, those inside others too."""
    parts = config if isinstance(config, list) else config.values() if isinstance(config, dict) else ()
    if isinstance(config, dict) and "class_name" in config:
        yield config
    for part in parts:
        yield from _objects(part)


def attribute(file: Path, name: str) -> Any:
    """What an HDF5 file says of itself; None where it says nothing of that, or is damaged."""
    import h5py

    try:
        with h5py.File(file) as content:
            return content.attrs.get(name)
    except OSError:
        return None


def refuse_outside(source: Path, file: Path) -> None:
    """Raise `ModelFormatError` where the HDF5 `file` of `source` takes values from other files of this machine, or is damaged."""
    import h5py

    outside: list[str] = []

    def look(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset) and (item.is_virtual or item.external):
            outside.append(name)

    def follow(name: str, link: Any) -> None:
        if isinstance(link, h5py.ExternalLink):
            outside.append(name)

    try:
        with h5py.File(file) as content:
            content.visititems_links(follow)
            # Links outside are not followed here.
            content.visititems(look)
    except (OSError, RuntimeError, KeyError, ValueError) as error:
        text = " ".join(str(error).split())[:200]
        raise ModelFormatError(f"{source}: its weights cannot be read ({text}); copy it again or save it once more") from error
    if outside:
        raise ModelFormatError(f"{source}: its weights {outside[0]} lie in another file; save the model whole with model.save()")
