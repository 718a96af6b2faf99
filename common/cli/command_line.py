"""Settings shared by the command lines of all commands."""

from typing import Any

HELP: dict[str, Any] = {"help_option_names": ["-h", "--help"]}  # of click's context_settings
