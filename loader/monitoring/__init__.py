"""Live figures: counted by the service, served by a process beside it."""
