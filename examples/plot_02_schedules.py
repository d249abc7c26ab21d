"""
2. Schedules and warmup
=======================

A search looks for the *peak* learning rate. A schedule describes how the learning rate changes during the training: it
returns a multiplier for every step, and the learning rate of that step is the peak times the multiplier.
"""

# %%
# Each schedule has a name. The plots show all of them with a peak of 0.1 over 10 epochs, after one epoch of warmup;
# "onecycle" has its own warmup. "plateau" depends on the losses of a training, so it cannot be drawn beforehand.
import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits

from sklr import MLP, NeuralNetClassifier, plot_schedule
from sklr.plotting import schedule_data
from sklr.schedules import SCHEDULES, Cosine, Plateau, Steps

names = [name for name in SCHEDULES if name != "plateau"]
figure, axes = plt.subplots(2, 5, figsize=(13, 5), sharex=True, sharey=True, layout="constrained")
for name, ax in zip(names, axes.flat, strict=False):
    plot_schedule(name, n_epochs=10, lr=0.1, warmup_epochs=name != "onecycle", ax=ax)
    ax.set_title(f'"{name}"')

# %%
# A name stands for a schedule object with its default parameters. The objects can be configured, compared and searched.
print(SCHEDULES["cosine"](), Cosine(end=0.1) == Cosine(end=0.1))
print(Steps({5: 0.1}))

# %%
# Now train a net. `warmup_epochs` and `schedule` are parameters of the net, and `history_` holds the learning rates
# that were actually used. They follow the plan at every step.
X, y = load_digits(return_X_y=True)
net = NeuralNetClassifier(MLP, lr=0.1, schedule="cosine", warmup_epochs=1, random_state=0).fit(X / 16, y)
print("lr at the end of each epoch:", [round(lr, 4) for lr in net.history_[:, "lr"]])
steps_per_epoch = len(net.history_[0, "batches"])
planned = schedule_data("cosine", n_epochs=10, steps_per_epoch=steps_per_epoch, lr=0.1, warmup_epochs=1)
used = schedule_data(net)
print(f"largest difference to the plan: {abs(used.lrs - planned.lrs).max():.1g}")
axes[1, 3].plot(planned.epochs, planned.lrs, color="0.8", linewidth=6, label="planned")
plot_schedule(net, ax=axes[1, 3])
axes[1, 3].lines[-1].set(label="used", color="C1")
axes[1, 3].set_title('"cosine" in a training')
axes[1, 3].legend()

# %%
# This plateau schedule halves the learning rate whenever the loss of an epoch is not at least 1 % lower than before.
# The labels are shuffled, so the loss soon stops falling.
shuffled = np.random.default_rng(0).permutation(y)
plateau = Plateau(factor=0.5, patience=0, threshold=0.01)
net = NeuralNetClassifier(MLP, lr=0.1, schedule=plateau, warmup_epochs=1, random_state=0).fit(X / 16, shuffled)
print("loss:", [round(float(loss), 3) for loss in net.history_[:, "train_loss"]])
plot_schedule(net, ax=axes[1, 4])
axes[1, 4].lines[-1].set_color("C1")
axes[1, 4].set_title("Plateau(...) in a training")

for ax in axes.flat:
    ax.label_outer()
    ax.set_xticks(range(0, 11, 2))
figure.savefig("plot_02_schedules.png", dpi=120)
plt.show()
