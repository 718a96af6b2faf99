"""Settings shared by the command lines of all commands."""

from typing import Any

HELP: dict[str, Any] = {"help_option_names": ["-h", "--help"]}  # of click's context_settings

DEFAULT_ENDPOINT = "tcp://127.0.0.1:5555"  # of a service, and where a client looks for one
