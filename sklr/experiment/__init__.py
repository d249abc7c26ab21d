"""What all runs of a search share: the experiment, its folds, and the rows of each cell."""
