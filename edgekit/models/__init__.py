"""What comes in: checkpoints, Keras models, and how their layers are found and stored."""
