"""The audit: a few steps of a small stack, compared with the same steps of single nets."""
