"""What a search tries next: dimensions, covers, surrogates and samplers."""
