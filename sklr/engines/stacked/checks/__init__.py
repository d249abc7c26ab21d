"""Reasons why a net cannot be stacked: found in its parameters, in its modules, and by a call on a small batch."""
