"""
4. More than the learning rate
==============================

The best learning rate depends on the optimizer, batch size, schedule and net, so they may have to be searched together.
This example uses Optuna. A search space can mix lists, scikit-optimize dimensions, Optuna distributions and SciPy
distributions; every search accepts all of them.
"""

# %%
# To search depth and width as two numbers, define a module that takes them as parameters.
import matplotlib.pyplot as plt
from optuna.distributions import FloatDistribution, IntDistribution
from scipy.stats import loguniform
from sklearn.datasets import load_digits
from sklearn.model_selection import StratifiedKFold
from skopt.space import Real

from sklr import MLP, NeuralNetClassifier, OptunaSearchCV
from sklr.plotting import plot_params


class Net(MLP):
    def __init__(self, n_inputs, n_outputs, n_layers=1, width=64, dropout=0.0):
        super().__init__(n_inputs, n_outputs, hidden=(width,) * n_layers, dropout=dropout)


# %%
# The search space, with all four kinds of entries:
space = {
    "lr": loguniform(1e-3, 1.0),  # SciPy
    "optimizer__momentum": Real(0.0, 0.95),  # scikit-optimize
    "optimizer__weight_decay": FloatDistribution(1e-6, 1e-2, log=True),  # Optuna
    "batch_size": [32, 64, 128],  # a list of choices
    "schedule": ["constant", "linear", "cosine"],  # of any type
    "module__n_layers": [1, 2, 3],
    "module__width": IntDistribution(16, 128, log=True),
    "module__dropout": (0.0, 0.5),  # scikit-optimize's short form
}

# %%
X, y = load_digits(return_X_y=True)
X, y = X[:900] / 16, y[:900]
net = NeuralNetClassifier(Net, optimizer="sgd", iterator_train__shuffle=True)
folds = StratifiedKFold(3, shuffle=True, random_state=0)
search = OptunaSearchCV(net, space, n_trials=32, cv=folds, random_state=0).fit(X, y)
for name, value in search.best_params_.items():
    print(f"{name:>24}: {value if not isinstance(value, float) else format(value, '.3g')}")
print(f"{'accuracy':>24}: {search.best_score_:.4f}")

# %%
# Each panel shows the scores of all trials against one parameter; the star marks the best trial. The learning rate
# matters most. How much the others matter cannot be read off 32 trials, because all parameters change at once.
figure, axes = plt.subplots(2, 4, figsize=(13, 6), sharey=True, layout="constrained")
plot_params(search, axes=axes)[0].set_xscale("log")
figure.savefig("plot_04_more_than_the_lr.png", dpi=120)
plt.show()
