"""
1. A first search
=================

`LRGridSearchCV` trains a net with several learning rates, each on every fold, and chooses the best one.
"""

# %%
# First, the data and a net. The input and output widths of `MLP` are inferred when it is fitted.
import matplotlib.pyplot as plt
from sklearn.datasets import load_digits
from sklearn.model_selection import StratifiedKFold, train_test_split

from sklr import MLP, LRGridSearchCV, NeuralNetClassifier, plot_lr_curve

X, y = load_digits(return_X_y=True)
X_train, X_test, y_train, y_test = train_test_split(X / 16, y, stratify=y, random_state=0)
net = NeuralNetClassifier(MLP, module__hidden=(64,), optimizer="adam", iterator_train__shuffle=True)

# %%
# The search tries eleven learning rates from 0.00001 to 1 on five folds. With a `random_state` it is reproducible.
folds = StratifiedKFold(5, shuffle=True, random_state=0)
search = LRGridSearchCV(net, lr_range=(1e-5, 1.0), n_lrs=11, cv=folds, random_state=0)
search.fit(X_train, y_train)

# %%
# The LR curve has the mean score of each learning rate and its standard error. Several learning rates are about as
# good as the best one, so the search also reports an interval.
print(search.lr_curve_)
low, high = search.lr_interval_
print(f"chosen: {search.best_lr_:.3g}, 90 % interval from {low:.3g} to {high:.3g}")

# %%
# The search has refitted the net with the chosen learning rate on all training rows, and predicts like any
# scikit-learn estimator. The score to report is the one on rows that the search has not seen.
print(f"in cross-validation: {search.best_score_:.3f}")
print(f"on new rows:         {search.score(X_test, y_test):.3f}")

# %%
# The left plot is the LR curve. The right plot shows the scores of three learning rates after every epoch: `history_`
# has a row for every candidate, fold, seed and epoch.
history = search.history_
figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
plot_lr_curve(search, ax=left).set_ylabel("accuracy, mean of 5 folds")
left.legend(loc="upper center", bbox_to_anchor=(0.5, 1.15), ncols=3, fontsize="small")
for candidate, name in [(2, "too low"), (search.best_index_, "chosen"), (10, "too high")]:
    rows = history["candidate"] == candidate
    epochs = sorted(set(history["epoch"][rows]))
    means = [history["valid_score"][rows & (history["epoch"] == epoch)].mean() for epoch in epochs]
    lr = search.cv_results_["param_lr"][candidate]
    right.plot([epoch + 1 for epoch in epochs], means, marker="o", label=f"lr {lr:.3g}, {name}")
right.set(xlabel="epochs trained", ylabel="accuracy, mean of 5 folds", ylim=(0, 1.02))
right.legend(loc="upper center", bbox_to_anchor=(0.5, 1.15), ncols=3, fontsize="small")
figure.savefig("plot_01_first_search.png", dpi=120)
plt.show()
