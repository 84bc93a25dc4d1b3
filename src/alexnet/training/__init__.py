"""Training: the loop, its steps and optimizer, the schedule, checkpoints and the log."""
