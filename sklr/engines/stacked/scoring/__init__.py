"""Scoring the runs of a stack."""
