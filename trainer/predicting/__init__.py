"""Answers of trained networks for image files."""
