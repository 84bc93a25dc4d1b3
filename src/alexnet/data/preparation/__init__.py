"""Photographs in, a prepared data set out."""
