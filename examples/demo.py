"""Find the learning rate of a small net on scikit-learn's digits: what `make demo` runs.

Eleven learning rates from 0.00001 to 1, five folds. A bar shows the progress; the table, the chosen learning rate and
a picture of the LR curve come at the end.
"""

import time

import matplotlib
import torch
from sklearn.callback import ProgressBar
from sklearn.datasets import load_digits

from sklr import MLP, LRGridSearchCV, NeuralNetClassifier, plot_lr_curve

matplotlib.use("Agg")
PICTURE = "lr_curve.png"


def main() -> None:
    """Search, print, draw."""
    torch.set_num_threads(1)  # such small matrices gain nothing from more
    X, y = load_digits(return_X_y=True)
    net = NeuralNetClassifier(MLP, module__hidden=(32, 32), optimizer="adam", batch_size=32, max_epochs=10)
    search = LRGridSearchCV(net, lr_range=(1e-5, 1.0), n_lrs=11, random_state=0)
    search.set_callbacks(ProgressBar(max_propagation_depth=0))
    start = time.perf_counter()
    search.fit(X / 16, y)
    seconds = time.perf_counter() - start
    print(search.lr_curve_)
    n_runs = search.cell_scores_.size
    print(f"\n{n_runs} trainings in {seconds:.1f} s, engine: {search.engine_}.")
    print(f"Chosen lr: {search.best_lr_:.3g}, cross-validated accuracy {search.best_score_:.3f}.")
    plot_lr_curve(search).figure.savefig(PICTURE, dpi=150)
    print(f"The curve is drawn in {PICTURE}.")


if __name__ == "__main__":
    main()
