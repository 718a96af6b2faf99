"""From images to batches; never imports torch."""
