"""One stock optimizer for many runs, each at its own learning rate."""
