"""Live figures: counted by the service, told by a process beside it."""
