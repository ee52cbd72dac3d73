"""Checkpoint to ONNX, ONNX to SavedModel, and the direct roads: TorchScript, and litert-torch to a float .tflite."""
