"""The command line: the only room that knows arguments and prints tables."""
