"""One model to .tflite files in the schemes asked for."""
