"""What a search tries next: dimensions, even covers, surrogate models and samplers."""
