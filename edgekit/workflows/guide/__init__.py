"""The TF Lite guide on model optimization: its published figures, its models, and what a run of them measured."""
