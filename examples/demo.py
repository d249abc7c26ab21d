"""Find the learning rate of a small net on scikit-learn's digits data; `make demo` runs this script.

It trains eleven learning rates from 0.0001 to 10 on five folds with a progress bar, then prints a table and the chosen
learning rate and draws the LR curve. Pass a file name on the command line to save the picture under that name.
"""

import sys
import time
import warnings

import matplotlib

matplotlib.use("Agg")  # the picture goes to a file, so no screen is needed

import torch
from matplotlib.figure import Figure
from sklearn.callback import ProgressBar
from sklearn.datasets import load_digits
from sklearn.model_selection import StratifiedKFold

from sklr import MLP, DivergedWarning, LRGridSearchCV, NeuralNetClassifier, plot_lr_curve


def make_search() -> LRGridSearchCV:
    """Return the search over a perceptron with two hidden layers of 64 units: 10 epochs of SGD, batch size 64."""
    net = NeuralNetClassifier(
        MLP,
        module__hidden=(64, 64),
        optimizer="sgd",
        optimizer__momentum=0.9,
        schedule="cosine",
        batch_size=64,
        iterator_train__shuffle=True,
    )
    folds = StratifiedKFold(5, shuffle=True, random_state=0)
    return LRGridSearchCV(net, lr_range=(1e-4, 10.0), n_lrs=11, cv=folds, random_state=0)


def draw(search: LRGridSearchCV, path: str) -> None:
    """Save the LR curve to a file."""
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    ax = plot_lr_curve(search, ax=figure.subplots())
    ax.set_ylabel("accuracy, mean of 5 folds")
    ax.set_title("Digits, MLP 64-64-64-10, SGD with momentum 0.9")
    ax.legend(loc="upper left")
    ax.grid(alpha=0.3)
    figure.savefig(path, dpi=150)


def main(picture: str = "lr_curve.png") -> LRGridSearchCV:
    """Search, print, draw; return the fitted search."""
    torch.set_num_threads(1)  # matrices this small gain nothing from more threads
    X, y = load_digits(return_X_y=True)
    search = make_search().set_callbacks(ProgressBar(max_propagation_depth=0))
    start = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DivergedWarning)  # the table says which diverged, and where
        search.fit(X / 16, y)
    seconds = time.perf_counter() - start
    print(search.lr_curve_)
    print(f"\n{search.cell_scores_.size} trainings and the refit in {seconds:.1f} s, engine: {search.engine_}.")
    print(f"Chosen lr: {search.best_lr_:.3g}, cross-validated accuracy {search.best_score_:.3f}.")
    draw(search, picture)
    print(f"The curve is drawn in {picture}.")
    return search


if __name__ == "__main__":
    main(*sys.argv[1:2])
