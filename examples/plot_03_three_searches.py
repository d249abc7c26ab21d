"""
3. Three searches, one interface
================================

A grid, Bayesian optimization (scikit-optimize) and Optuna search the same range of learning rates. They share the
folds, the initial weights and the batches, so a learning rate gets the same score whichever search proposes it.
"""

# %%
# Each search tries sixteen learning rates.
import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import StratifiedKFold

from sklr import MLP, BayesSearchCV, LRGridSearchCV, NeuralNetClassifier, OptunaSearchCV

X, y = load_digits(return_X_y=True)
X, y = X[:900] / 16, y[:900]
net = NeuralNetClassifier(MLP, module__hidden=(64,), optimizer="adam", iterator_train__shuffle=True)
shared = {
    "lr_range": (1e-5, 1.0),
    "cv": StratifiedKFold(3, shuffle=True, random_state=0),
    "n_seeds": 2,  # each learning rate is trained twice on every fold, from different weights
    "random_state": 0,
}
searches = {
    "grid": LRGridSearchCV(net, n_lrs=16, **shared),
    "Bayes": BayesSearchCV(net, n_iter=16, **shared),
    "Optuna": OptunaSearchCV(net, n_trials=16, **shared),
}
for name, search in searches.items():
    search.fit(X, y)
    curve = search.lr_curve_
    se = curve.se[np.nanargmax(curve.mean)]
    print(f"{name:>6}: lr {search.best_lr_:.3g}, accuracy {search.best_score_:.4f}, standard error {se:.4f}")

# %%
# The left plot shows which learning rates each search tried, the right plot the lowest error found so far. The grid
# goes from low to high. The other two start with points that cover the range evenly, and then try points where the
# scores so far are promising or where little is known.
#
# With one parameter, it is hard to beat a good grid by much. The best scores differ by about their standard errors, so
# this plot alone is no reason to prefer one of the searches.
figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
evaluations = np.arange(1, 17)
for (name, search), marker in zip(searches.items(), "so^", strict=True):
    scores = search.cv_results_["mean_test_score"]
    left.plot(evaluations, search.cv_results_["param_lr"], marker=marker, linestyle="none", label=name)
    right.plot(evaluations, 1 - np.maximum.accumulate(scores), marker=marker, drawstyle="steps-post", label=name)
left.set(xlabel="evaluation", ylabel="learning rate tried", yscale="log")
right.set(xlabel="evaluations", ylabel="lowest error rate so far", yscale="log")
right.set_yticks([0.04, 0.1, 0.3, 1.0], ["4 %", "10 %", "30 %", "100 %"])
right.minorticks_off()
for ax in (left, right):
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, 1.13), ncols=3)
figure.savefig("plot_03_three_searches.png", dpi=120)
plt.show()

# %%
# Every search records its trials in an Optuna study.
for search in searches.values():
    print(f"{type(search).__name__:>15}: {len(search.study_.trials)} trials, best {search.study_.best_value:.4f}")
