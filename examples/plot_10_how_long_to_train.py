"""
10. How long to train
=====================

Before the first search you have to choose the number of training steps. It should not be searched, because longer
trainings nearly always score better. A first guess is the number of steps that the fastest constant learning rate needs
to fit the training set.
"""

# %%
# `suggest_max_steps` trains seven learning rates with three seeds each on all rows, as one stack. The net below has
# weight decay, dropout and a schedule; they are switched off for this experiment, and the result says so.
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
# Now the same with a range that is too low: the fastest learning rate is the highest one, so the result is unreliable.
low = suggest_max_steps(net, X / 16, y, lr_range=(1e-3, 0.03), n_lrs=4, n_seeds=1, max_epochs=30, random_state=0)
print(low.summary())

# %%
# The left plot shows the error on the training rows, with a thin line for each seed. The right plot shows how many
# steps each learning rate takes to reach lower accuracies (median of the seeds). All trainings end when one learning
# rate has fitted the training set with two of the three seeds.
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
