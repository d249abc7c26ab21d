"""
12. Sweep, then refine
======================

A first sweep over many decades costs little and shows where to look. A second sweep between the neighbours of the best
learning rate finds it more precisely. Learning rates of the first sweep are not trained again.
"""

# %%
# The first round tries ten learning rates over seven decades, with five epochs each, of which the first two are warmup.
# Two more rounds try four learning rates each. All use the same folds, initial weights and batches, so the rounds can
# be compared.
import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import StratifiedKFold

from sklr import MLP, LRGridSearchCV, NeuralNetClassifier, plot_lr_curve
from sklr.plotting import plot_rounds

X, y = load_digits(return_X_y=True)
X, y = X[:900] / 16, y[:900]
net = NeuralNetClassifier(
    MLP, module__hidden=(64,), optimizer="adam", max_epochs=5, warmup_epochs=2, iterator_train__shuffle=True
)
shared = {
    "lr_range": (1e-8, 0.1),
    "cv": StratifiedKFold(3, shuffle=True, random_state=0),
    "n_seeds": 2,
    "scoring": "neg_log_loss",  # less noisy than accuracy
    "random_state": 0,
}
search = LRGridSearchCV(net, n_lrs=10, rounds=3, **shared).fit(X, y)
for number, places in enumerate(search.rounds_, start=1):
    lrs = search.cv_results_["param_lr"][places]
    best = search.cv_results_["mean_test_score"][places].max()
    print(f"round {number}: {len(lrs):2} learning rates, {lrs.min():.2g} to {lrs.max():.2g}, best score {best:.4f}")

# %%
# In a single even grid with as many learning rates, the points are further apart, and the best one is further from the
# optimum.
grid = LRGridSearchCV(net, n_lrs=18, **shared).fit(X, y)
for name, one in {"10 + 4 + 4": search, "18 at once": grid}.items():
    low, high = one.lr_interval_
    print(f"{name}: lr {one.best_lr_:.3g}, score {one.best_score_:.4f}, the best lr is in {low:.2g} .. {high:.2g}")

# %%
# With `extend=True`, a search whose range ends too early continues, one decade at a time, as long as the best learning
# rate is the last one.
short = LRGridSearchCV(net, n_lrs=6, extend=True, **{**shared, "lr_range": (1e-8, 1e-3)}).fit(X, y)
tried = np.sort(short.cv_results_["param_lr"].astype(float))
print(f"asked for 1e-08 to 0.001, searched up to {tried[-1]:.2g}, best {short.best_lr_:.3g}")

# %%
figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
plot_rounds(search, ax=left)
plot_lr_curve(search, ax=right)
scores = search.cv_results_["mean_test_score"]
right.set(xlim=(0.013, 0.13), ylim=(1.5 * scores[search.rounds_[1]].min(), None), title="where rounds 2 and 3 went")
right.set_xticks([0.02, 0.05, 0.1], ["0.02", "0.05", "0.1"])
right.set_xticks([], minor=True)
figure.savefig("plot_12_sweep_then_refine.png", dpi=120)
plt.show()
