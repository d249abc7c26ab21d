"""From candidates and cells to stacks: nets are initialized, checked, grouped, and divided into packs."""
