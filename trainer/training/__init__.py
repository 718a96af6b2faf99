"""The steps and epochs of a run, and what it tells of them."""
