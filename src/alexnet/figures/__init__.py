"""Arrays in, a picture or an HTML fragment out; knows nothing of runs, data sets or networks."""
