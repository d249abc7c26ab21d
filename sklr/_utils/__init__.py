"""Utilities shared by all subpackages."""
