"""The ways to compute the gradients of a step for all runs, one file each."""
