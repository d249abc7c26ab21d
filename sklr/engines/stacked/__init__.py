"""The stacked engine: candidates, folds and seeds trained as a few batched models.

Words: a *cell* is one fold and one seed, a *run* is one candidate trained in one cell. Candidates that can share a
batched model, and are set up in cells of the same shapes, form a *group*. A group is divided into *packs*, as memory,
workers and threads allow. A pack trains the runs of its *members*, which are candidates, in its cells as one *stack*.

A training, from the outside in:

- `setup.prepare` sets nets up in every cell and forms groups, `checks` finds reasons against stacking, and `audit`
  trains a few steps both ways and compares.
- `engine.StackedEngine.start` passes the groups to `packs.Packs`, which makes the packs; `advance` trains them up to
  an epoch.
- `scored_pack.ScoredPack` trains an epoch by `model.pack.Pack` and scores it; `unstack` turns a run into its own net.
- `model.pack.Pack.train_epoch` feeds batches (`model.feed`) to `model.stack.ModelStack.steps`, which replays recorded
  steps (`replay`) or takes plain ones.
- `model.stack.ModelStack.step` is one optimizer step of all runs: gradients from a kernel (`kernels`), clipping, and
  the update of a stock optimizer (`optim`).

Axes: parameters are `(n_cells, n_candidates, *shape)`, buffers `(n_candidates, n_cells, *shape)`, and batches
`(n_cells, n_rows, ...)`. `ModelStack` returns `(n_candidates, n_cells, ...)`.
"""
