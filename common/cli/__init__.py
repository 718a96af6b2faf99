"""Command lines and terminals: entering a command, messages, progress, output files."""
