"""The trainer, in one process."""
