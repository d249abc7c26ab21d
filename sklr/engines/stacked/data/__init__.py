"""Rows and batches: which rows each step of a stack is given, and where they are kept."""
