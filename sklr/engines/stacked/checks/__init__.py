"""What keeps a net out of a stack: told from its parameters, its modules, and a call on a small batch."""
