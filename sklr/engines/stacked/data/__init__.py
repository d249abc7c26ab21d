"""Which rows each step of a stack sees."""
