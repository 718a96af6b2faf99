"""Recipes and the rules of their numbers."""
