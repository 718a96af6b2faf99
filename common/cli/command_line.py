"""Defaults of several commands."""

DEFAULT_TIMEOUT_S = 60.0  # of silence, after which a client gives up
DEFAULT_ENDPOINT = "tcp://127.0.0.1:5555"  # of a service, and where a client looks for one
