"""Settings shared by the command lines of all commands."""

DEFAULT_ENDPOINT = "tcp://127.0.0.1:5555"  # of a service, and where a client looks for one
