"""A model with the inputs and outputs of MediaPipe Tasks computes what it did before."""

import flatbuffers
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema

from edgekit.errors import ConfigError
from edgekit.stages.quantize import mediapipe
from edgekit.tflite import flatbuffer
from edgekit.tflite.interpreter import Model
from tests.unit.classifiers import text_classifier

ROW = {"input_ids": np.arange(16, dtype=np.int32)[None], "attention_mask": np.ones((1, 16), np.int32)}


def softmax(values: np.ndarray) -> np.ndarray:
    shifted = np.exp(values - values.max())
    return np.asarray(shifted / shifted.sum())


@pytest.mark.parametrize("activation", ["softmax", "sigmoid", None])
def test_three_inputs_and_probabilities(tmp_path, activation):
    model = text_classifier()
    (tmp_path / "plain.tflite").write_bytes(model)
    path = tmp_path / "adapted.tflite"
    path.write_bytes(mediapipe.adapt(model, origin="model", segments=True, activation=activation))
    logits = Model(tmp_path / "plain.tflite").run(ROW)["logits"]
    expected = {"softmax": softmax(logits), "sigmoid": 1 / (1 + np.exp(-logits)), None: logits}[activation]
    adapted = Model(path)
    assert adapted.signature.input_names == ("input_ids", "attention_mask", "token_type_ids")
    for segments in (0, 1):
        found = adapted.run({**ROW, "token_type_ids": np.full((1, 16), segments, np.int32)})
        np.testing.assert_allclose(found["logits" if activation is None else "probabilities"], expected, rtol=1e-5)
    file = flatbuffer.read(path)
    assert len(file.subgraphs[0].inputs) == 3
    assert mediapipe.gives_probabilities(file) == (activation is not None)


def test_what_is_there_is_not_added_again():
    model = mediapipe.adapt(text_classifier(), origin="model", segments=True, activation="softmax")
    assert mediapipe.adapt(model, origin="model", segments=True, activation=None) == model


def test_an_integer_output_is_refused():
    root = schema.ModelT.InitFromPackedBuf(bytearray(text_classifier()), 0)
    graph = root.subgraphs[0]
    graph.tensors[graph.outputs[0]].type = schema.TensorType.INT8
    builder = flatbuffers.Builder(1024)
    builder.Finish(root.Pack(builder), file_identifier=b"TFL3")
    with pytest.raises(ConfigError, match="takes float32 scores, output logits is int8"):
        mediapipe.adapt(bytes(builder.Output()), origin="model", segments=False, activation="softmax")
