"""
8. A range test first
=====================

A range test increases the learning rate a little after every step, from far too low to far too high, and monitors the
training loss. It costs a few epochs and shows where training becomes unstable. Tutorials then read a learning rate off
the curve, by eye or by one of several rules. This example applies five rules with three seeds, and then compares them
with the result of a search.
"""

# %%
# A small net for the digits data. All seeds are trained as one stack.
import warnings

import matplotlib.pyplot as plt
from sklearn.datasets import load_digits

from sklr import MLP, DivergedWarning, LRGridSearchCV, NeuralNetClassifier, lr_range_test, plot_lr_curve

X, y = load_digits(return_X_y=True)
X = X / 16
net = NeuralNetClassifier(
    MLP,
    module__hidden=(64, 64),
    optimizer__momentum=0.9,
    schedule="cosine",
    batch_size=64,
    iterator_train__shuffle=True,
)
test = lr_range_test(net, X, y, random_state=0)
print(test)

# %%
# The suggestions are in a dict; no plot is needed to get them. The suggestions of the single seeds scatter:
for rule, lrs in test.run_suggestions.items():
    print(f"{rule:>8}: {test.suggestions[rule]:.3g}, by seed " + ", ".join(f"{lr:.3g}" for lr in lrs))

# %%
# A range test sees the start of a training and not its end, so we leave the choice to a search. With
# ``lr_range="auto"`` the search runs the same test on its own folds and searches the range below the edge of stability.
search = LRGridSearchCV(net, lr_range="auto", n_lrs=11, cv=3, scoring="neg_log_loss", random_state=0)
with warnings.catch_warnings():
    warnings.simplefilter("ignore", DivergedWarning)
    search.fit(X, y)
print(f"\nsearched {search.range_test_.search_range}, best lr {search.best_lr_:.3g}")
for rule, lr in test.suggestions.items():
    print(f"{rule:>8} suggests {lr / search.best_lr_:.2g} times the best lr")

# %%
figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
test.plot(ax=left)
plot_lr_curve(search, ax=right)
for rule, lr in test.suggestions.items():
    right.axvline(lr, color="0.6", linewidth=0.8, linestyle=":")
    right.text(lr, right.get_ylim()[0], f" {rule}", rotation=90, va="bottom", ha="right", fontsize="small", color="0.4")
left.set_title("the ramp: three seeds")
right.set_title("the search: eleven trainings on three folds")
figure.savefig("plot_08_range_test.png", dpi=120)
plt.show()
