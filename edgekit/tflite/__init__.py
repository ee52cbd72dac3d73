"""The .tflite format and its runtime: inspect, run, read metadata, set signatures. No TensorFlow anywhere."""
