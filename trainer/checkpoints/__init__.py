"""Checkpoints: saved, resumed, transferred."""
