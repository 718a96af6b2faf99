"""Every number of a network and its training, as data."""
