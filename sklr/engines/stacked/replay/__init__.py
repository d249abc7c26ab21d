"""Recorded steps: taken again without Python."""
