"""A model that lies in the caller's memory as a file, which then goes the way of any other.

The caller's process has its framework loaded already, and it is the only one that edgekit does not load itself."""

import contextlib
import io
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from edgekit.errors import ConfigError, EdgekitError, ModelFormatError, UnsupportedOpError, one_line
from edgekit.models import keras2, keras3
from edgekit.system import rooms
from edgekit.system.serial import parse_json


@contextlib.contextmanager
def as_reference(model: Any, example_inputs: Any, name: str | None) -> Iterator[str]:
    """What to convert: `model` itself where it is a path or an id, else a file of it that is gone when the block ends.

    `example_inputs` of a torch module are a tensor or array, or several in a tuple by position or in a dict by name. The file is
    called `name`, else as the module's class, or as the Keras model. Errors call the model so, too.
    Raises `ConfigError` for what no file can be made of, and `UnsupportedOpError` where torch cannot export it."""
    if isinstance(model, str | Path):
        if example_inputs is not None or name is not None:
            raise ConfigError(f"{model}: example_inputs and name are for models in memory; leave them out")
        yield str(model)
        return
    called = re.sub(r"[^\w.-]", "_", name or _name(model)).lstrip(".") or "model"
    with rooms.temporary("in-memory") as room:
        try:
            yield str(_saved(model, example_inputs, called, room))
        except EdgekitError as error:
            pattern = rf"{re.escape(str(room.resolve()))}/{re.escape(called)}(\.\w+)?"
            error.message = re.sub(pattern, lambda _: called, error.message)
            raise


def _name(model: Any) -> str:
    kind = type(model).__name__
    return str(getattr(model, "name", kind)) if _is_a(model, "keras", "Model") or _is_a(model, "tf_keras", "Model") else kind


def _is_a(model: Any, module: str, *path: str) -> bool:
    """Whether it is of a class of a framework that the caller has loaded."""
    place = sys.modules.get(module)
    for part in path:
        place = getattr(place, part, None)
    return isinstance(place, type) and isinstance(model, place)


def _saved(model: Any, example_inputs: Any, name: str, room: Path) -> Path:
    if _is_a(model, "torch", "nn", "Module"):
        if example_inputs is None:
            raise ConfigError(f"{name}: a torch module says nothing of its inputs; give example_inputs")
        return _exported(model, example_inputs, name, room)
    if example_inputs is not None:
        raise ConfigError(f"{name}: example_inputs are for torch modules; leave them out")
    if _is_a(model, "torch", "export", "ExportedProgram"):
        return _written(model, room / f"{name}.pt2")
    if _is_a(model, "keras", "Model") or _is_a(model, "tf_keras", "Model"):
        return _keras(model, name, room)
    raise ConfigError(f"{name}: is no model that edgekit reads; give a torch.nn.Module, a keras.Model, or the name of a file")


def _exported(module: Any, example_inputs: Any, name: str, room: Path) -> Path:
    import torch

    def tensor(value: Any) -> Any:
        return torch.from_numpy(value) if type(value).__module__ == "numpy" else value

    by_name = {key: tensor(value) for key, value in example_inputs.items()} if isinstance(example_inputs, Mapping) else None
    several = isinstance(example_inputs, tuple | list)
    by_place = () if by_name is not None else tuple(map(tensor, example_inputs if several else (example_inputs,)))
    training = [part for part in module.modules() if part.training]
    module.eval()
    try:
        with torch.no_grad():
            program = torch.export.export(module, by_place, by_name)
    except Exception as error:  # tracing runs the module's own code
        raise UnsupportedOpError(f"{name}: torch.export cannot trace it ({one_line(error)})") from error
    finally:
        for part in training:
            part.training = True
    return _written(program, room / f"{name}.pt2")


def _written(program: Any, file: Path) -> Path:
    import torch

    torch.export.save(program, file)
    return file


def _keras(model: Any, name: str, room: Path) -> Path:
    """As the file that keeps most; as a SavedModel where the model has code of its own, which such a file cannot hold."""
    of_keras_3 = _is_a(model, "keras", "Model") and not _is_a(model, "tf_keras", "Model")
    file = room / f"{name}.keras" if of_keras_3 else room / f"{name}.h5"
    try:
        model.save(str(file))
        if of_keras_3:
            keras3.refuse_code(file, parse_json(model.to_json()))
        else:
            keras2.refuse_code(file)
        return file
    except (ModelFormatError, NotImplementedError, ValueError, TypeError):
        # What there is of the file says nothing.
        file.unlink(missing_ok=True)
    with contextlib.redirect_stdout(io.StringIO()):
        model.export(str(room / name))
    return room / name
