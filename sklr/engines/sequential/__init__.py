"""The sequential engine: trains one net after another, by skorch's own training loop."""
