"""The network on its devices."""
