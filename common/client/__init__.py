"""The reader's side: requests batches, retries, reorders. The loader never imports it."""
