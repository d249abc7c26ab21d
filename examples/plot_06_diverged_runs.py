"""
6. Runs that diverge
====================

With a learning rate that is far too high the weights of a net become NaN. It still predicts: the largest of several
NaNs is the first, so every sample gets the first class. If most samples are of that class, the score looks fine.
"""

# %%
# Five learning rates, one of them absurd, and a table of which 63 % of the rows are of the first class.
import warnings

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_breast_cancer
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.preprocessing import StandardScaler

from sklr import MLP, DivergedWarning, LRGridSearchCV, NeuralNetClassifier

X, y = load_breast_cancer(return_X_y=True)
X, y = StandardScaler().fit_transform(X), 1 - y  # 0 is benign, 1 malignant
lrs = [1e-5, 1e-4, 1e-3, 0.1, 1e30]
net = NeuralNetClassifier(MLP, module__hidden=(16,), iterator_train__shuffle=True, random_state=1)
folds = StratifiedKFold(3, shuffle=True, random_state=0)

# %%
# scikit-learn's search scores whatever predicts. `1e30` comes out second: above the learning rates that were too low to
# learn much from these initial weights, though those nets could be trained on, and this one is beyond repair.
grid = GridSearchCV(net, {"lr": lrs}, cv=folds).fit(X, y)
for lr, score, rank in zip(lrs, grid.cv_results_["mean_test_score"], grid.cv_results_["rank_test_score"], strict=True):
    print(f"lr {lr:>6.0e}  accuracy {score:.3f}  rank {rank}")

# %%
# Here a run whose loss explodes is stopped at once. Its candidate has no score, ranks last, and the status says at
# which step it happened. One warning counts them all.
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always", DivergedWarning)
    search = LRGridSearchCV(net, lrs=lrs, cv=folds, random_state=0).fit(X, y)
print(search.lr_curve_)
print("ranks:", search.cv_results_["rank_test_score"].tolist())
print("warning:", caught[0].message)

# %%
figure, ax = plt.subplots(figsize=(7, 4), layout="constrained")
curve = search.lr_curve_
places = np.arange(len(lrs))
ax.plot(places, grid.cv_results_["mean_test_score"], "s", color="0.4", ms=11, fillstyle="none", label="GridSearchCV")
ax.errorbar(places, curve.mean, yerr=curve.se, fmt="o", capsize=3, label="LRGridSearchCV, standard error")
ax.plot(places[curve.diverged], np.zeros(curve.diverged.sum()), "x", color="red", ms=9, label="diverged, no score")
ax.set_xticks(places, [f"{lr:.0e}" for lr in lrs])
ax.set(xlabel="learning rate", ylabel="accuracy, mean of 3 folds", ylim=(-0.05, 1.05))
ax.legend(loc="upper left")
ax.grid(alpha=0.3)
figure.savefig("plot_06_diverged_runs.png", dpi=120)
plt.show()
