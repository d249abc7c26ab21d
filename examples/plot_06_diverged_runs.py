"""
6. Runs that diverge
====================

With a learning rate that is far too high, the weights of a net become NaN. The net still predicts: the argmax of
several NaNs is the first of them, so every sample gets the first class. If most samples belong to that class, the score
looks fine.
"""

# %%
# We try five learning rates, one of them absurdly high, on data where 63 % of the rows belong to the first class.
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
# scikit-learn's search scores every net that predicts. `1e30` is ranked second, above learning rates that were too low
# to learn much from these initial weights. Those nets could be trained further; this one could not.
grid = GridSearchCV(net, {"lr": lrs}, cv=folds).fit(X, y)
for lr, score, rank in zip(lrs, grid.cv_results_["mean_test_score"], grid.cv_results_["rank_test_score"], strict=True):
    print(f"lr {lr:>6.0e}  accuracy {score:.3f}  rank {rank}")

# %%
# sklr stops a run as soon as its loss explodes. The candidate has no score and ranks last, and its status says at which
# step the loss exploded. A single warning reports all diverged candidates.
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
