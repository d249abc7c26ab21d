"""The stacked model: many copies of one module, their loss and their state."""
