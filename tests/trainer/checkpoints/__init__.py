"""Checkpoints: format, choice, resume."""
