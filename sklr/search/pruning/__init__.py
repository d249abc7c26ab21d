"""Pruning: which candidates stop training early."""
