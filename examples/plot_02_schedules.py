"""
2. Schedules and warmup
=======================

The learning rate that is searched is the *peak*. A schedule says what happens to it during the training: it gives a
number for every step, and the learning rate of the step is the peak times that number.
"""

# %%
# Each schedule has a name. Here they are with a peak of 0.1 over 10 epochs, after one epoch of warmup; "onecycle" has a
# warmup of its own. A plateau waits for losses that stop falling, so it cannot be drawn before a training.
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
# A name stands for a value with its defaults. The value itself can be changed, compared and searched.
print(SCHEDULES["cosine"](), Cosine(end=0.1) == Cosine(end=0.1))
print(Steps({5: 0.1}))

# %%
# Now a training. `warmup_epochs` and `schedule` are parameters of the net, and `history_` holds the learning rate
# that was really used. It lies on the plan, step for step.
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
# A plateau halves the learning rate here, when the loss of the next epoch is not 1 % lower. This net learns from
# shuffled labels, so there is soon nothing more to gain.
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
