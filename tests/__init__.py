"""Tests through the public seams, with real processes; `bench` holds what measures."""
