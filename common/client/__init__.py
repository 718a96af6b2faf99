"""The reader's side; the loader never imports it."""
