"""What training, sampling and studies share: run directory, checkpoints, tracking, the training step, generation."""
