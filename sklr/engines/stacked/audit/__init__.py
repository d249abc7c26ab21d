"""The audit: a stack's first steps compared with the steps of plain nets."""
