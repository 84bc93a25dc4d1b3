"""HTML pages and tables from run folders and prepared data sets."""
