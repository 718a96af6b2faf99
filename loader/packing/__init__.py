"""From pictures, however they lie, to LMDB."""
