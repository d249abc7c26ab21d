"""
16. Speed up an existing search
===============================

An existing grid search with scikit-learn's own `GridSearchCV` over a skorch net need not be rewritten to train its
candidates as one stacked model. It is enough to put it into a `with` block.
"""

# %%
# The search below uses nothing from sklr. The function that builds the module seeds PyTorch, so that all fits start
# from the same weights and the results can be compared.
import time

import matplotlib.pyplot as plt
import numpy as np
import skorch
import torch
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from torch import nn

import sklr

X, y = load_digits(return_X_y=True)
X = (X / 16).astype(np.float32)


def module():
    """Return a small network, the same each time."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 10))


net = skorch.NeuralNetClassifier(
    module,
    criterion=nn.CrossEntropyLoss,
    optimizer__momentum=0.9,
    max_epochs=3,
    batch_size=32,
    iterator_train__shuffle=True,
    train_split=None,
    verbose=0,
)
folds = StratifiedKFold(5, shuffle=True, random_state=0)
search = GridSearchCV(net, {"lr": np.geomspace(1e-4, 0.1, 10)}, cv=folds, refit=False)

# %%
# Run the same search, 10 learning rates x 5 folds, twice: with one fit after the other, and under `stacked`.
start = time.perf_counter()
plain = clone(search).fit(X, y).cv_results_
plain_seconds = time.perf_counter() - start

start = time.perf_counter()
with sklr.stacked() as stacking:
    fast = clone(search).fit(X, y).cv_results_
fast_seconds = time.perf_counter() - start

print(stacking)
difference = np.abs(fast["mean_test_score"] - plain["mean_test_score"]).max()
print(f"largest difference between mean scores: {difference:.4f}")
print(f"plain {plain_seconds:.2f} s, stacked {fast_seconds:.2f} s: {plain_seconds / fast_seconds:.0f} times as fast")


# %%
# Fits that cannot be stacked are run as usual, and the reasons are reported. For example, a custom callback could do
# anything, so nets with one are not stacked.
class Own(skorch.callbacks.Callback):
    """A callback that does nothing, which sklr cannot know."""


with sklr.stacked() as refused:
    watched = clone(net).set_params(callbacks=[Own()], max_epochs=1)
    GridSearchCV(watched, {"lr": [0.01, 0.1]}, cv=2, refit=False).fit(X[:200], y[:200])
print(refused)

# %%
figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.8), layout="constrained", width_ratios=(2, 1))
lrs = np.asarray(plain["param_lr"], dtype=float)
left.plot(lrs, plain["mean_test_score"], "s", color="0.4", ms=11, fillstyle="none", label="plain")
left.plot(lrs, fast["mean_test_score"], "o-", color="C0", label="under stacked()")
left.set(xscale="log", xlabel="learning rate", ylabel="accuracy, mean of 5 folds", ylim=(0, 1.05))
left.legend()
bars = right.bar(["plain", "under\nstacked()"], [plain_seconds, fast_seconds], color=["0.6", "C0"])
right.bar_label(bars, fmt="%.2g s")
right.set(ylabel="seconds for 50 fits")
right.margins(y=0.12)
for ax in (left, right):
    ax.grid(alpha=0.3)
figure.savefig("plot_16_accelerate.png", dpi=120)
plt.show()
