"""Pruning stages: checkpoint in, smaller checkpoint out."""
