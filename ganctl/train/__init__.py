"""Training: one loop over phases, exact checkpoints, many ranks."""
