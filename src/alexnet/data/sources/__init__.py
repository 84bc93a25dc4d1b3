"""Readers of data sets as they are found: folders, archives, and the formats of competitions and other programs."""
