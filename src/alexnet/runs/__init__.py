"""The run folder: the recipe (every hyper-parameter), the log, the state, and the machine it ran on."""
