"""Errors, views and answers."""
