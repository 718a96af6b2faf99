"""Worker processes: from a record to its pixels in a slot."""
