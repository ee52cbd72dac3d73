"""What a model is fed: read from files, encoded, drawn and validated."""
