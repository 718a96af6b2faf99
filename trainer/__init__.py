"""From batches to a trained network. Never lmdb, never a JPEG: batches come over the wire."""
