"""Arrays to images and HTML fragments, independent of runs, data sets and networks."""
