"""Quantization-aware training, sparsity and clustering of Keras models."""
