"""The client, the wire and the terminal, in one process."""
