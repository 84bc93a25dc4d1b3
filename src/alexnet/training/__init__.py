"""Scores in, weights out: the update rule, the schedule, the loop, the state it goes on from."""
