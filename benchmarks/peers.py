"""int8 by other tools, each as its documentation says. Every function runs in a worker child."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from children import TOKEN_INPUTS

from edgekit.data.samples import Samples
from edgekit.errors import UnsupportedOpError
from edgekit.models.checkpoint import Checkpoint
from edgekit.stages.export import module
from edgekit.stages.export.onnx import OPSET


def export_as_trained(checkpoint: Path, samples: Path, target: Path) -> None:
    """ONNX with the attention mask that transformers gives it, the least float32."""
    import torch

    stored = Samples.load(samples)
    rows = Samples({name: stored.inputs[name] for name in TOKEN_INPUTS})
    program = torch.onnx.export(
        module.load(Checkpoint.read(checkpoint), TOKEN_INPUTS),
        module.example(rows),
        dynamo=True,
        opset_version=OPSET,
        optimize=True,
        input_names=list(TOKEN_INPUTS),
        output_names=["logits"],
        verbose=False,
    )
    if program is None:
        raise UnsupportedOpError(f"{checkpoint}: torch exported nothing to ONNX")
    program.save(target)


def tflite_converter(saved: Path, samples: Path, target: Path) -> None:
    """TFLiteConverter's post-training integer quantization with a representative data set.

    https://ai.google.dev/edge/litert/models/post_training_quantization
    """
    import tensorflow as tf

    def representative() -> Iterator[dict[str, np.ndarray]]:
        for row in Samples.load(samples):
            yield {name: np.array(value) for name, value in row.items()}

    converter = tf.lite.TFLiteConverter.from_saved_model(str(saved))
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = representative
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    target.write_bytes(converter.convert())


def ai_edge_quantizer(model: Path, samples: Path, target: Path) -> None:
    """ai-edge-quantizer's own recipe `static_wi8_ai8`."""
    from ai_edge_litert.interpreter import Interpreter
    from ai_edge_quantizer import recipe
    from ai_edge_quantizer.quantizer import Quantizer

    (key,) = Interpreter(str(model)).get_signature_list()
    quantizer = Quantizer(str(model), recipe.static_wi8_ai8())
    rows = [{name: np.array(value) for name, value in row.items()} for row in Samples.load(samples)]
    target.write_bytes(bytes(quantizer.quantize(quantizer.calibrate({key: rows})).quantized_model))


def onnx_runtime_static(model: Path, samples: Path, target: Path) -> None:
    """ONNX Runtime's static quantization: pre-processed, QDQ, int8 weights and activations, min/max.

    https://onnxruntime.ai/docs/performance/model-optimizations/quantization.html
    """
    from onnxruntime.quantization import CalibrationDataReader, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):  # type: ignore[misc, unused-ignore]
        def __init__(self) -> None:
            self._rows = iter(Samples.load(samples))

        def get_next(self) -> dict[str, np.ndarray] | None:
            row = next(self._rows, None)
            return None if row is None else {name: np.array(value, wanted[name]) for name, value in row.items()}

    wanted = _dtypes(model)
    prepared = target.with_suffix(".prepared.onnx")
    quant_pre_process(str(model), str(prepared), skip_symbolic_shape=True)
    quantize_static(str(prepared), str(target), Reader())
    prepared.unlink()


def onnx_runtime_dynamic(model: Path, target: Path) -> None:
    """ONNX Runtime's dynamic quantization with int8 weights; same page."""
    import onnx
    from onnxruntime.quantization import quantize_dynamic
    from onnxruntime.quantization.shape_inference import quant_pre_process

    prepared = target.with_suffix(".prepared.onnx")
    quant_pre_process(str(model), str(prepared), skip_symbolic_shape=True)
    content = onnx.load(prepared)
    # With the shapes that torch noted in the graph it stops: "Inferred shape and existing shape differ".
    del content.graph.value_info[:]
    quantize_dynamic(content, str(target))
    prepared.unlink()


def _dtypes(model: Path) -> dict[str, np.dtype]:
    import onnx

    graph = onnx.load(model, load_external_data=False).graph
    return {item.name: onnx.helper.tensor_dtype_to_np_dtype(item.type.tensor_type.elem_type) for item in graph.input}
