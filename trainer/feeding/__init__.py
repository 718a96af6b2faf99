"""Batches from the loader to the devices."""
