"""The stacked model: many copies of one module, the batches they are shown, their state and their histories."""
