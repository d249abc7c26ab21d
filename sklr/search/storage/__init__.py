"""Searches stored in an Optuna storage, to be resumed and shared."""
