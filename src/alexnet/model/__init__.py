"""Batches in, class scores out: the network, its layers, its weights on disk."""
