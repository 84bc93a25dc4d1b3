"""From photographs to batches: fetch, read, decode, prepare, augment, load."""
