"""Command lines and terminals: entering a command, options, messages, progress, output files."""
