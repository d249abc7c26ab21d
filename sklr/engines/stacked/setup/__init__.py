"""From candidates and cells to stacks: what can be stacked, and what a stack is made of."""
