"""ILSVRC2012 as distributed."""
