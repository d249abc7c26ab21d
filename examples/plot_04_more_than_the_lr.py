"""
4. More than the learning rate
==============================

The best learning rate depends on batch size, schedule and width, so they may have to be searched together. A space can
mix lists, scikit-optimize dimensions, Optuna distributions and scipy distributions; every search takes all of them.
"""

# %%
# One space, all four kinds of entry.
import matplotlib.pyplot as plt
import numpy as np
from optuna.distributions import FloatDistribution
from scipy.stats import loguniform
from sklearn.datasets import load_digits
from sklearn.model_selection import StratifiedKFold
from skopt.space import Real

from sklr import MLP, NeuralNetClassifier, OptunaSearchCV

space = {
    "lr": loguniform(1e-3, 1.0),  # scipy
    "optimizer__weight_decay": FloatDistribution(1e-6, 1e-2, log=True),  # Optuna
    "optimizer__momentum": Real(0.0, 0.95),  # scikit-optimize
    "batch_size": [32, 64, 128],  # a list is a choice
    "module__hidden": [(32,), (128,), (64, 64)],  # of anything
    "schedule": ["constant", "linear", "cosine"],
}

# %%
X, y = load_digits(return_X_y=True)
X, y = X[:900] / 16, y[:900]
net = NeuralNetClassifier(MLP, optimizer="sgd", iterator_train__shuffle=True)
folds = StratifiedKFold(3, shuffle=True, random_state=0)
search = OptunaSearchCV(net, space, n_trials=24, cv=folds, random_state=0).fit(X, y)
for name, value in search.best_params_.items():
    print(f"{name:>24}: {value if not isinstance(value, float) else format(value, '.3g')}")
print(f"{'accuracy':>24}: {search.best_score_:.4f}")

# %%
# Each panel shows all trials against one parameter; the star is the best. The learning rate decides most. How much
# the others matter cannot be read off 24 trials, as they change all at once.
results = search.cv_results_
scores = results["mean_test_score"]
figure, axes = plt.subplots(2, 3, figsize=(11, 6), sharey=True, layout="constrained")
for (name, allowed), ax in zip(space.items(), axes.flat, strict=True):
    tried = results[f"param_{name}"]
    if isinstance(allowed, list):
        tried = np.array([allowed.index(value) for value in tried])
        ax.set_xticks(range(len(allowed)), [str(value) for value in allowed])
        ax.margins(x=0.15)
    elif name != "optimizer__momentum":
        ax.set_xscale("log")
    ax.scatter(tried, scores, alpha=0.6)
    ax.scatter(tried[search.best_index_], scores[search.best_index_], marker="*", s=220, color="C3", zorder=3)
    ax.set_xlabel(name)
    ax.grid(alpha=0.3)
for ax in axes[:, 0]:
    ax.set_ylabel("accuracy, mean of 3 folds")
figure.savefig("plot_04_more_than_the_lr.png", dpi=120)
plt.show()
