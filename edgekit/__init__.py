"""edgekit: from a PyTorch checkpoint to .tflite files that were run and measured before they got their names."""

__version__ = "0.1.0"
