"""Test helpers: real processes, bad peers, damaged files, small nets."""
