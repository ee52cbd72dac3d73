"""Latency, memory, accuracy, agreement and delegate partitions of .tflite files."""
