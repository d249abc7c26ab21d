"""
18. A lopsided curve
====================

The score of a trained net falls differently on the two sides of the best learning rate: here it levels off below, and
drops steeply and noisily above. A quadratic misses the scores below by far more than their noise, so the position of
its top is a matter of luck. ``select="fit"`` uses only the best learning rate and its neighbours, and estimates how far
their top moves with the noise.
"""

# %%
# Search nine learning rates over four decades on five folds.
import warnings

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_wine
from sklearn.preprocessing import scale

from sklr import MLP, DivergedWarning, LRGridSearchCV, NeuralNetClassifier, plot_lr_curve
from sklr.selection import choose

X, y = load_wine(return_X_y=True)
net = NeuralNetClassifier(
    MLP, module__hidden=(32,), optimizer="adam", batch_size=32, max_epochs=20, iterator_train__shuffle=True
)
search = LRGridSearchCV(
    net, lr_range=(1e-4, 1.0), n_lrs=9, cv=5, scoring="neg_log_loss", select="fit", refit=False, random_state=0
)
with warnings.catch_warnings():
    warnings.simplefilter("ignore", DivergedWarning)
    search.fit(scale(X), y)
print(search.summary())

# %%
# Compare the three selection rules, and a quadratic through all scores.
curve = search.lr_curve_
choices = {select: choose(curve, select) for select in ("best", "one_se", "fit")}
for choice in choices.values():
    print(choice)
near = curve.usable
square, linear, constant = np.polyfit(np.log10(curve.lr[near]), curve.mean[near], 2)
quadratic_lr = 10 ** (-linear / (2 * square))
print(f"a quadratic through all of them: {quadratic_lr:.3g}")

# %%
# For comparison, the true optimum from a larger search: 17 learning rates with three seeds on each fold.
lrs = np.geomspace(choices["fit"].lr / 10, choices["fit"].lr * 10, 17).tolist()
truth = LRGridSearchCV(net, lrs=lrs, cv=5, n_seeds=3, scoring="neg_log_loss", refit=False, random_state=1)
with warnings.catch_warnings():
    warnings.simplefilter("ignore", DivergedWarning)
    truth.fit(scale(X), y)
print(f"truly best: {truth.best_lr_:.3g}")

# %%
figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
plot_lr_curve(search, ax=left)
u = np.linspace(*np.log10(curve.lr[near][[0, -1]]), 200)
left.plot(10**u, np.polyval([square, linear, constant], u), color="0.5", linestyle=":", label="quadratic through all")
left.axvline(quadratic_lr, color="0.5", linestyle=":", linewidth=1)
left.legend(loc="lower center", fontsize="small")
left.set_title("what the search saw")
plot_lr_curve(truth, ax=right)
right.axvspan(*search.lr_interval_, color="#dca01e", alpha=0.18, linewidth=0)
right.set_title("the truth: 17 learning rates, 15 cells")
figure.savefig("plot_18_lopsided_curve.png", dpi=120)
plt.show()
