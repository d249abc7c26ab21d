"""
18. A lopsided curve
====================

On a trained net the score often falls gently below the best learning rate, and steeply above it. A quadratic through
all scores has its top elsewhere then. ``select="fit"`` takes the best learning rate and its neighbours alone, and asks
how far their top moves with the noise.
"""

# %%
# Eleven learning rates over five decades, five folds.
import warnings

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_breast_cancer
from sklearn.preprocessing import scale

from sklr import MLP, DivergedWarning, LRGridSearchCV, NeuralNetClassifier, plot_lr_curve
from sklr.selection import choose

X, y = load_breast_cancer(return_X_y=True)
net = NeuralNetClassifier(
    MLP, module__hidden=(32,), optimizer__momentum=0.9, batch_size=32, max_epochs=10, iterator_train__shuffle=True
)
search = LRGridSearchCV(
    net, lr_range=(1e-4, 10.0), n_lrs=11, cv=5, scoring="neg_log_loss", select="fit", refit=False, random_state=0
)
with warnings.catch_warnings():
    warnings.simplefilter("ignore", DivergedWarning)
    search.fit(scale(X), y)
print(search.summary())

# %%
# The three ways to choose, and what a quadratic through everything on this side of the cliff says.
curve = search.lr_curve_
choices = {select: choose(curve, select) for select in ("best", "one_se", "fit")}
for choice in choices.values():
    print(choice)
near = curve.usable & (curve.mean > curve.mean.max() - 0.5)
square, linear, constant = np.polyfit(np.log10(curve.lr[near]), curve.mean[near], 2)
quadratic_lr = 10 ** (-linear / (2 * square))
print(f"a quadratic through all of them: {quadratic_lr:.3g}")

# %%
# What is it in truth? More than twice as many learning rates, three seeds for each fold.
lrs = np.geomspace(choices["fit"].lr / 10, choices["fit"].lr * 10, 17).tolist()
truth = LRGridSearchCV(net, lrs=lrs, cv=5, n_seeds=3, scoring="neg_log_loss", refit=False, random_state=1)
with warnings.catch_warnings():
    warnings.simplefilter("ignore", DivergedWarning)
    truth.fit(scale(X), y)
print(f"truly best: {truth.best_lr_:.3g}")

# %%
figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.2), layout="constrained", sharey=True)
plot_lr_curve(search, ax=left)
u = np.linspace(*np.log10(curve.lr[near][[0, -1]]), 200)
left.plot(10**u, np.polyval([square, linear, constant], u), color="0.5", linestyle=":", label="quadratic through all")
left.axvline(quadratic_lr, color="0.5", linestyle=":", linewidth=1)
left.legend(loc="lower center", fontsize="small")
left.set_title("what the search saw")
plot_lr_curve(truth, ax=right)
right.axvspan(*search.lr_interval_, color="#dca01e", alpha=0.18, linewidth=0)
right.set_title("the truth: 17 learning rates, 15 cells")
left.set_ylim(curve.mean.max() - 0.5, curve.mean.max() + 0.05)
figure.savefig("plot_18_lopsided_curve.png", dpi=120)
plt.show()
