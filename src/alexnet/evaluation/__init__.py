"""Evaluation of trained networks: predictions over views, metrics, intervals and comparisons of runs."""
