"""What all commands have in common on their command line."""

from typing import Any

HELP: dict[str, Any] = {"help_option_names": ["-h", "--help"]}  # of click's context_settings
