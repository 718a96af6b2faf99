"""Command lines and terminals."""
