"""Measured against the alternative, in one process, in turns: medians and ratios, with the machine they came from."""
