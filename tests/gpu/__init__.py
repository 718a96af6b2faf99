"""Tests for a GPU, and for its code without one."""
