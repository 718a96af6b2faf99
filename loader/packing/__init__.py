"""Packing of images in any supported layout to LMDB."""
