"""
7. Does a schedule help? A regression with several seeds
========================================================

A small net learns a polynomial of degree 2 for 60 epochs, with four schedules: the learning rate starts at 0.05 and
falls by 5 % each epoch; it stays at 0.03; it stays at 0.01; or it is 0.03 for 30 epochs and then 0.01. Tutorials
compare such schedules with one training each. Here each schedule is trained with eight seeds, the same for all four.
"""

# %%
# The target is a weighted sum of the squares of five features, with a little noise. The net has two hidden layers of
# four tanh units, each with batch normalization.
import warnings

import matplotlib.pyplot as plt
import numpy as np
import torch
from sklearn.model_selection import ShuffleSplit

from sklr import MLP, EdgeOfRangeWarning, LRGridSearchCV, NeuralNetRegressor
from sklr.schedules import Exponential, Steps

rng = np.random.default_rng(0)
X = rng.standard_normal((1000, 5))
y = X**2 @ np.array([2, -1, 3, 1, 2]) + 0.01 * rng.standard_normal(1000)
net = NeuralNetRegressor(
    MLP,
    module__hidden=(4, 4),
    module__activation=torch.nn.Tanh,
    module__batch_norm=True,
    batch_size=50,
    max_epochs=60,
    iterator_train__shuffle=True,
)

# %%
# Each schedule is a candidate of a grid. A single split and eight seeds make eight runs per candidate. A search warns
# if the best learning rate is the highest one tried; we ignore this warning, because only these four are of interest.
ways = {
    "0.05, then 5 % less each epoch": {"lr": [0.05], "schedule": [Exponential(0.95)]},
    "0.03": {"lr": [0.03]},
    "0.01": {"lr": [0.01]},
    "0.03, from epoch 30 on 0.01": {"lr": [0.03], "schedule": [Steps({30: 1 / 3})]},
}
split = ShuffleSplit(1, test_size=0.3, random_state=0)
search = LRGridSearchCV(net, list(ways.values()), scoring="neg_mean_squared_error", cv=split, n_seeds=8, random_state=0)
with warnings.catch_warnings():
    warnings.simplefilter("ignore", EdgeOfRangeWarning)
    search.fit(X, y)

# %%
# `history_` holds the score of every epoch. The table shows the scores after the last epoch.
history = search.history_
mse = -history["valid_score"].reshape(len(ways), 8, 60)  # candidate, seed, epoch
for name, runs in zip(ways, mse[..., -1], strict=True):
    print(f"{name:>30}: test MSE {runs.mean():5.2f} ± {runs.std(ddof=1) / np.sqrt(8):.2f} (standard error)")

# %%
# The seeds are shared, so the schedules can be compared seed by seed: how much worse is each than the first one, from
# the same initial weights and on the same batches?
for name, runs in list(zip(ways, mse[..., -1], strict=True))[1:]:
    lost = runs - mse[0, :, -1]
    print(
        f"{name:>30}: {lost.mean():+.2f} ± {lost.std(ddof=1) / np.sqrt(8):.2f}, worse in {(lost > 0).sum()} of 8 seeds"
    )

# %%
figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
epochs = np.arange(1, 61)
lr = history["lr"].reshape(mse.shape)[:, 0]
for candidate, (name, runs) in enumerate(zip(ways, mse, strict=True)):
    left.plot(epochs, lr[candidate], drawstyle="steps-mid", label=name)
    mean, se = runs.mean(axis=0), runs.std(axis=0, ddof=1) / np.sqrt(8)
    right.plot(epochs, mean, color=f"C{candidate}")
    right.fill_between(epochs, mean - se, mean + se, color=f"C{candidate}", alpha=0.2)
left.set(xlabel="epoch", ylabel="learning rate used", ylim=(0, None))
right.set(xlabel="epoch", ylabel="test MSE, mean of 8 seeds ± standard error", ylim=(10, 50))
left.legend()
figure.savefig("plot_07_regression_schedules.png", dpi=120)
plt.show()
