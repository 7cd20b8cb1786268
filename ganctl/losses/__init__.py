"""Losses that two or more papers share. Everything takes logits and returns a scalar mean over the batch."""
