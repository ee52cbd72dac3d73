"""Keras 3 files, sound ones and those that a stranger might hand in; each function but the smallest runs in a worker's child."""

import json
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from edgekit.errors import EdgekitError
from edgekit.models import keras3

WEIGHTS = "model.weights.h5"


def write_sound(folder: Path) -> None:
    """`net.keras` with input `x` (4,) and a layer `scores`, and others in the ways that Keras builds models."""
    import keras

    layers = keras.layers
    x = keras.Input((4,), name="x")
    keras.Model(x, layers.Dense(3, name="scores")(x)).save(folder / "net.keras")
    a, b = keras.Input((6, 6, 3), name="a"), keras.Input((4,), name="b")
    both = layers.Concatenate()([layers.GlobalAveragePooling2D()(layers.Conv2D(4, 3, activation="gelu")(a)), b])
    named = {"class": layers.Dense(3)(both), "age": keras.ops.relu(layers.Dense(1)(both) + 1)}
    keras.Model({"a": a, "b": b}, named).save(folder / "named.keras")
    twice = layers.Dense(2, name="twice")
    keras.Model([a, b], [twice(b), twice(b * 2), keras.ops.mean(a, axis=(1, 2, 3))]).save(folder / "several.keras")
    inner = keras.Sequential([layers.LSTM(5, return_sequences=True), layers.Bidirectional(layers.GRU(3))], name="inner")
    outer = keras.Sequential([keras.Input((7, 2), name="steps"), inner, layers.Dense(2, name="last")])
    outer.compile("adam", loss=lambda true, said: keras.ops.mean(true - said))
    outer.save(folder / "recurrent.keras")
    outer.save(folder / "recurrent.h5")
    keras.Sequential([layers.Dense(2)]).save(folder / "unbuilt.keras")

    @keras.saving.register_keras_serializable("mine")
    class Net(keras.Model):
        def __init__(self, **options: Any) -> None:
            super().__init__(**options)
            self.dense = layers.Dense(2)

        def call(self, values: Any) -> Any:
            return self.dense(values)

    net = Net()
    net(np.zeros((1, 4), np.float32))
    net.save(folder / "registered.keras")
    keras.saving.get_custom_objects().clear()


def write_lambdas(folder: Path, left: Path) -> None:
    """`lambda.keras` and `lambda.h5`, whose layer writes `left` when it is called."""
    import keras

    def spoil(values: Any, place: str = str(left)) -> Any:
        __import__("pathlib").Path(place).touch()
        return values

    net = keras.Sequential([keras.Input((4,)), keras.layers.Lambda(spoil, output_shape=(4,), name="odd"), keras.layers.Dense(2)])
    for suffix in ("keras", "h5"):
        net.save(folder / f"lambda.{suffix}")
    left.unlink(missing_ok=True)


def changed(source: Path, target: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """`source` with another config.json."""
    with zipfile.ZipFile(source) as archive, zipfile.ZipFile(target, "w") as other:
        for name in archive.namelist():
            content = archive.read(name)
            if name == "config.json":
                change(config := json.loads(content))
                content = json.dumps(config).encode()
            other.writestr(name, content)


def with_object(module: str | None, kind: str, inner: Any) -> Callable[[dict[str, Any]], None]:
    """Puts an object where the initializer of the dense layer is."""

    def change(config: dict[str, Any]) -> None:
        config["config"]["layers"][-1]["config"]["kernel_initializer"] = {
            "module": module,
            "class_name": kind,
            "config": inner,
            "registered_name": None,
        }

    return change


def with_layer(kind: str, **settings: Any) -> Callable[[dict[str, Any]], None]:
    def change(config: dict[str, Any]) -> None:
        config["config"]["layers"][-1] |= {"class_name": kind, "config": {"name": "odd", **settings}}

    return change


def with_loss(config: dict[str, Any]) -> None:
    """A model inside another is compiled when it is loaded, the outermost is not."""
    dense = config["config"]["layers"][-1]
    dense["compile_config"] = {"loss": {"module": "os", "class_name": "function", "config": "system", "registered_name": None}}


def with_weights(source: Path, target: Path, change: Callable[[h5py.File], None]) -> None:
    shutil.unpack_archive(source, folder := target.with_suffix(""), "zip")
    with h5py.File(folder / WEIGHTS, "a") as file:
        change(file)
    with zipfile.ZipFile(target, "w") as archive:
        for part in sorted(folder.iterdir()):
            archive.write(part, part.name)


def write_strange(folder: Path, secret: Path) -> dict[str, Path]:
    """By what is wrong with each; `net.keras` is there already, and so is `secret`, an HDF5 file of somebody else."""
    sound = folder / "net.keras"
    files = {}

    def file(name: str) -> Path:
        files[name] = folder / f"{name}.keras"
        return files[name]

    for name, change in {
        "module": with_object("os", "function", "system"),
        "download": with_object("keras.utils", "function", "get_file"),
        "unsafe": with_object("keras.config", "function", "enable_unsafe_deserialization"),
        "bytecode": with_object(None, "__lambda__", {"value": ["4wA=", None, None]}),
        "typespec": with_object("keras.utils", "__typespec__", []),
        "no layer": with_object("keras.utils", "PyDataset", {}),
        "savedmodel": with_layer("TFSMLayer", filepath=str(folder)),
        "vocabulary": with_layer("StringLookup", vocabulary="/etc/passwd"),
        "pickled": with_layer("TorchModuleWrapper", module="gASV"),
        "loss": with_loss,
    }.items():
        changed(sound, file(name), change)
    with_weights(sound, file("link"), lambda h5: h5.__setitem__("linked", h5py.ExternalLink(str(secret), "/values")))
    with_weights(sound, file("external"), lambda h5: h5.create_dataset("out", (4,), "f4", external=[(str(secret), 0, 16)]))

    def virtual(h5: h5py.File) -> None:
        layout = h5py.VirtualLayout((4,), "f4")
        layout[:] = h5py.VirtualSource(str(secret), "values", (4,))
        h5.create_virtual_dataset("virtual", layout)

    with_weights(sound, file("virtual"), virtual)
    for name, member in {"traversal": "../outside", "assets": "assets/layer/vocabulary.txt", "twice": "config.json"}.items():
        shutil.copyfile(sound, file(name))
        with zipfile.ZipFile(files[name], "a") as archive:
            archive.writestr(member, b"{}")
    with zipfile.ZipFile(sound) as archive, zipfile.ZipFile(file("bomb"), "w", zipfile.ZIP_DEFLATED) as bomb:
        bomb.writestr("config.json", archive.read("config.json"))
        with bomb.open(WEIGHTS, "w", force_zip64=True) as stream:
            for _ in range(17):
                stream.write(bytes(2**24))
    content = sound.read_bytes()
    file("truncated").write_bytes(content[: len(content) // 2])
    file("cut").write_bytes(content[:40] + content[200:])
    file("empty").write_bytes(b"")
    file("text").write_text("no archive")
    zipfile.ZipFile(file("hollow"), "w").close()
    with zipfile.ZipFile(file("nested"), "w") as archive:
        archive.writestr("config.json", "[" * 100_000 + "]" * 100_000)
        archive.writestr(WEIGHTS, b"")
    return files


def said(file: Path) -> str:
    """What loading says of a file, or the model's ends."""
    try:
        function = keras3.serving(keras3.load(file), file)[1]
    except EdgekitError as error:
        return f"{type(error).__name__}: {error.message}"
    return f"{' '.join(function.structured_input_signature[1])} -> {' '.join(function.structured_outputs)}"


def sound_and_strange(folder: Path) -> dict[str, str]:
    """What is said of each file."""
    write_sound(folder)
    write_lambdas(folder, folder / "left")
    with h5py.File(folder / "secret.h5", "w") as secret:
        secret["values"] = np.ones(4, np.float32)
    files = write_strange(folder, folder / "secret.h5")
    files |= {file.name: file for file in folder.iterdir() if file.suffix in (".keras", ".h5") and file not in files.values()}
    answers = {name: said(file) for name, file in files.items()}
    answers["left"] = str((folder / "left").exists() or (folder.parent / "outside").exists())
    return answers
