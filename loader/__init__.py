"""From pictures to batches: packing, the data set, the augmentation, the workers and the service. Never torch."""
