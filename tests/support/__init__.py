"""Shared by tests: real processes, bad peers, damaged files, small nets."""
