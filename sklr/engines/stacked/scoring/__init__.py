"""Scores of the runs in a stack."""
