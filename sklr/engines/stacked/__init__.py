"""The stacked engine: candidates, folds and seeds trained as one batched model."""
