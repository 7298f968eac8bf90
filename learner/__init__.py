"""Torch only: trajectories to batches, filters, advantages, losses, models, checkpoints."""
