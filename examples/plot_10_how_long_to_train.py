"""
10. How long to train
=====================

Before the first search there is a number to settle that no search should settle for you: how many steps a training has.
A first guess is the time that the fastest constant learning rate needs to fit the training set.
"""

# %%
# `suggest_max_steps` trains seven learning rates from three seeds each on all rows, as one stack. The net below decays
# its weights, drops out and follows a schedule; for the experiment all that is switched off, and it says so.
from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits

from sklr import MLP, NeuralNetClassifier
from sklr.recipes import suggest_max_steps

X, y = load_digits(return_X_y=True)
net = NeuralNetClassifier(
    MLP,
    module__hidden=(64,),
    module__dropout=0.2,
    optimizer__momentum=0.9,
    optimizer__weight_decay=1e-4,
    schedule="cosine",
    batch_size=64,
    iterator_train__shuffle=True,
)
result = suggest_max_steps(net, X / 16, y, lr_range=(1e-3, 1.0), n_lrs=7, random_state=0)
print(result)

# %%
# Now the same with a range that is too low: the fastest of these is the highest, and the answer is not to be believed.
low = suggest_max_steps(net, X / 16, y, lr_range=(1e-3, 0.03), n_lrs=4, n_seeds=1, max_epochs=30, random_state=0)
print(low.summary())

# %%
# Left, the error on the training rows: a thin line for each seed. Right, how long each learning rate takes to lower
# marks (median of the seeds). All end when one learning rate has fitted from two seeds of three.
figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
steps = result.steps_per_epoch * np.arange(1, result.score.shape[-1] + 1)
colors = plt.get_cmap("viridis")(np.linspace(0, 0.95, len(result.lrs)))
for lr, scores, color in zip(result.lrs, result.score, colors, strict=True):
    left.plot(steps, 1 - scores.T + 1e-4, color=color, lw=0.8, alpha=0.5)
    left.plot(steps, 1 - np.median(scores, axis=0) + 1e-4, color=color, lw=2, label=f"lr {lr:.2g}")
left.axvline(result.n_steps, color="0.3", ls="--", lw=1)
left.set(xlabel="optimizer steps", ylabel="training error (0 drawn at 1e-4)", yscale="log")
left.legend(fontsize="small", loc="lower left")

for target in (0.8, 0.9, 0.95, 0.98, 1.0):
    fit_steps = np.median(replace(result, target=target).fit_steps, axis=1)
    right.plot(result.lrs, fit_steps, "o-", label=f"accuracy {target:g}")
right.axhline(result.n_steps, color="0.3", ls="--", lw=1, label=f"suggested: {result.n_steps} steps")
right.set(xscale="log", ylim=(0, 1.05 * result.n_steps), xlabel="learning rate", ylabel="steps to that accuracy")
right.legend(fontsize="small", loc="upper left", bbox_to_anchor=(1, 1))
for ax in (left, right):
    ax.grid(alpha=0.3)
figure.savefig("plot_10_how_long_to_train.png", dpi=120)
plt.show()
