"""A run's numbers, as data."""
