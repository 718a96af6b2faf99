"""Whole runs of a tiny net, and their reports."""
