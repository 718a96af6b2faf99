"""From batches in host memory to devices."""
