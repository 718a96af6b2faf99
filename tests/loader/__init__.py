"""Packing and what a worker does to an image, in one process."""
