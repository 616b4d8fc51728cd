"""What is read from and written to disk: checkpoints, pipelines, cards, whole files."""
