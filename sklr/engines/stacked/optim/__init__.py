"""Optimizers from `torch.optim` that step many runs, each at its own learning rate, and gradient clipping."""
