"""The models that score, loaded from their public checkpoints."""
