"""From images to batches: packing, the dataset, the workers and the service. Never imports torch."""
