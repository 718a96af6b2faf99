"""Evaluation of trained networks: errors, predictions, features."""
