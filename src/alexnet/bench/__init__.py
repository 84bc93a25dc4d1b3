"""Benchmarks of this package against alternatives, all measured in one process in alternation."""
