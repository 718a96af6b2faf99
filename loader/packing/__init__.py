"""Images of any layout to LMDB."""
