"""Runs: steps, epochs, reports."""
