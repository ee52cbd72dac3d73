"""ONNX to the ORT format: the flatbuffer that ONNX Runtime's mobile builds load."""

from pathlib import Path

from edgekit.data.samples import Samples
from edgekit.errors import UnsupportedOpError, one_line
from edgekit.stages.export.module import PARITY_ROWS
from edgekit.stages.export.onnx import run_onnx
from edgekit.tasks.parity import Parity, compare_all, require


def export_ort(onnx_file: Path, samples_folder: Path, target: Path) -> Parity:
    """Write an ONNX file as `target`, with ONNX Runtime's fusions applied, and compare both on the first saved rows.

    Only fusions that hold on every processor, since the file is meant for another one. Raises `UnsupportedOpError` and
    `ParityError`."""
    import onnxruntime

    onnxruntime.set_default_logger_severity(4)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(target)
    options.add_session_config_entry("session.save_model_format", "ORT")
    try:
        onnxruntime.InferenceSession(onnx_file, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its exceptions share no public base class
        raise UnsupportedOpError(f"{onnx_file.name}: ONNX Runtime cannot write it as ORT ({one_line(error)})") from error
    few = Samples.load(samples_folder).first(PARITY_ROWS)
    parity = compare_all(run_onnx(target, few), run_onnx(onnx_file, few))
    require(parity, "ONNX to ORT")
    return parity
