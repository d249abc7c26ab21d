"""Kernels: the ways to compute the gradients of one optimizer step for all runs, one file each."""
