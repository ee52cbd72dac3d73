"""Training stages: checkpoint in, checkpoint out."""
