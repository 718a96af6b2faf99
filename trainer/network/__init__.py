"""The network on its devices: its layers, its two halves and what they exchange."""
