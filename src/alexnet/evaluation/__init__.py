"""Weights in, errors out: predictions over one or ten views, counts, intervals, saved probabilities."""
