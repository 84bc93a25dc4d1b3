"""What photographs come as: folders, archives, competitions' and other programs' data sets."""
