"""The sequential engine: one net after another, by skorch's own loop."""
