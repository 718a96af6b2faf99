"""A run as it is kept, and taken up again."""
