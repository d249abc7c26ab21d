"""From candidates and cells to stacks: nets are initialised, checked, grouped, and divided into packs."""
