"""From labeled photographs to a prepared data set."""
