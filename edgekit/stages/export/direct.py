"""ONNX to a float32 .tflite through onnx2tf 2, which writes the file itself, in an environment of its own."""

import contextlib
import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

from edgekit.errors import UnsupportedOpError
from edgekit.stages.export import graph, incoming
from edgekit.stages.export.incoming import AS_IT_IS, Ends, Fixes
from edgekit.system.environment import Environment
from edgekit.tflite import flatbuffer, signatures

VERSION = "2.6.9"
ENVIRONMENT = Environment("onnx2tf", "edgekit setup onnx", Path(__file__).with_name("onnx2tf.txt"), ((3, 12), (3, 13)))
# For glibc, in `ENVIRONMENT`: blocks of a hundred MB that go back to the system and are taken again cost a third of MiniLM's time.
KEEPING_MEMORY = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**32)}
_IDENTIFIER = re.compile(r"[A-Za-z_]\w*", re.ASCII)


class _Written(BaseException):
    """Ends onnx2tf where nothing more is wanted of it."""


def _stop(*_: object) -> NoReturn:
    raise _Written


def export_direct(
    onnx_file: Path, target: Path, *, foreign: bool, max_length: int, fixes: Fixes = AS_IT_IS, keep_layout: bool = False
) -> Ends:
    """Write the ONNX file as a float32 .tflite of built-in ops with one signature; images become NHWC, but with `keep_layout`.

    For `foreign` and what it raises see `incoming.prepare`; `UnsupportedOpError` names the op. Runs in `ENVIRONMENT`; changes the
    working directory."""
    import onnx

    work = target.parent / f"{target.name}.onnx2tf"
    work.mkdir()
    # What is constant is folded in the finished file, too, and quicker.
    room = target.parent
    options: Any = {"foreign": foreign, "max_length": max_length, "fixes": fixes, "keep_layout": keep_layout}
    model, ends = incoming.prepare(onnx_file, room, fold=False, **options)
    copies = graph.drop_copies(model)
    renamed = graph.rename_ends(model, _IDENTIFIER)
    # onnx2tf guesses by the sizes which tensors have moved; told to move none itself, it cannot be wrong about inputs.
    graph.move_channels_last(model, [new for new in graph.input_names(model) if renamed.get(new, new) in ends.channels_last])
    onnx.save(model, work / "model.onnx")
    ops, kept = graph.op_types(model), graph.input_names(model)
    del model
    os.chdir(work)
    import onnx2tf
    from onnx2tf import tflite_builder

    # It begins the float16 file once the float32 one is written. Asked for or not, that would take a quarter of the time.
    tflite_builder.clone_model_ir_with_float16 = _stop
    with contextlib.suppress(_Written), incoming.converted(onnx_file, ends, ops):
        onnx2tf.convert(
            input_onnx_file_path="model.onnx",
            output_folder_path=".",
            tflite_backend="flatbuffer_direct",
            copy_onnx_input_output_names_to_tflite=True,
            keep_shape_absolutely_input_names=kept,
            not_use_onnxsim=True,
            not_use_opname_auto_generate=True,
            non_verbose=True,
            verbosity="error",
        )
    written = (work / "model_float32.tflite").read_bytes()
    file = flatbuffer.parse(written, str(onnx_file))
    if lacking := (*file.custom_ops, *file.flex_ops):
        names = ", ".join(name.removeprefix("ONNX_") for name in lacking)
        raise UnsupportedOpError(f"{onnx_file}: no TFLite form of op {names}; {ends.advice}")
    written = signatures.rename(signatures.add_signature(written), renamed) if renamed else signatures.add_signature(written)
    written = signatures.repeat(written, copies) if copies else written
    target.write_bytes(signatures.order(written, ends.inputs, ends.outputs, origin=str(onnx_file)))
    return replace(ends, names=renamed)
