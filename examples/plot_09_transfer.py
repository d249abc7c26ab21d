"""
9. From a small model to a large one
====================================

Rules transfer a learning rate that was found with small batches or a narrow net to larger ones. They hold under
conditions, so this example also checks each of them: by a few steps at several widths, or by a short sweep at both
sizes.
"""

# %%
# `transfer_lr` transfers to another batch size. It returns all parameters that have to change, under the names that
# `set_params` takes.
import matplotlib.pyplot as plt
import numpy as np
import torch
from sklearn.model_selection import ShuffleSplit

from sklr import MLP, NeuralNetClassifier
from sklr.plotting import plot_coordinate_check
from sklr.scaling import Transfer, mup_param_groups, transfer_lr
from sklr.transfer import coordinate_check, gradient_noise_scale, verify_transfer

lr = 0.006
batch = transfer_lr(lr, optimizer="adam", batch_size=(64, 256))
print(batch)

# %%
# The data are labelled by a random teacher network; the net has three hidden layers. The rule for the batch size holds
# only up to the gradient noise scale.
generator = np.random.default_rng(0)
X = generator.standard_normal((4500, 32)).astype("float32")
outputs = np.maximum(X @ generator.standard_normal((32, 64)), 0) @ generator.standard_normal((64, 10))
y = ((outputs - outputs.mean(axis=0)) / outputs.std(axis=0)).argmax(axis=1)

base, wide = 64, 256
hidden = {width: (width,) * 3 for width in (base, wide)}
net = NeuralNetClassifier(
    MLP, module__hidden=hidden[base], optimizer="adam", max_epochs=2, batch_size=64, iterator_train__shuffle=True
)
print(gradient_noise_scale(net, X, y, random_state=0))

# %%
# Now a net four times as wide. muP gives every parameter a multiplier of the learning rate, computed from the shapes
# alone. It can be combined with a learning rate that was already transferred to another batch size.
nets = MLP(32, 10, hidden=hidden[wide]), MLP(32, 10, hidden=hidden[base])
width = mup_param_groups(*nets, lr, "adam")
print(width)
both = mup_param_groups(*nets, batch.lr, "adam", eps=batch.params["optimizer__eps"])

# %%
# Does the best learning rate move as the rules say? The rule "one learning rate for all parameters" expects it to stay
# the same in the wide net, but it falls; with muP it stays. With batches four times as large it should double.
new = {"module__hidden": hidden[wide]}
rules = {
    "width 256, one lr for all": Transfer(lr, lr, wide / base, new, "the lr stays"),
    "width 256, muP": width.as_transfer(MLP, **new),
    "batch 256": batch,
    "batch 256, width 256, muP": Transfer(
        batch.lr, lr, wide / base, {**batch.params, **both.as_transfer(MLP, **new).params}, "both, one after the other"
    ),
}
folds = ShuffleSplit(1, test_size=1 / 3, random_state=0)
check = verify_transfer(
    net, X, y, list(rules.values()), cv=folds, n_seeds=3, n_lrs=8, scoring="neg_log_loss", random_state=0
)
print("; ".join(rules), check, sep="\n")

# %%
# Three steps on one batch show why: without muP, the outputs of the layers change more the wider the net is.
rows = torch.as_tensor(X[:64]), torch.as_tensor(y[:64])
widths = (64, 128, 256)
coordinates = {
    mup: coordinate_check(lambda width: MLP(32, 10, hidden=(width,) * 3), widths, *rows, lr=lr, mup=mup, random_state=0)
    for mup in (False, True)
}

# %%
# Dotted lines show the best learning rates according to a fitted curve, dashed lines the one that the rule predicts.
figure, axes = plt.subplots(2, 3, figsize=(16, 8), layout="constrained")
old = check.sweeps[0]
places = [axes[0, 0], axes[0, 1], axes[0, 2], axes[1, 2]]
for name, sweep, verdict, ax in zip(rules, check.sweeps[1:], check.verdicts, places, strict=True):
    for label, one, color in (("width 64, batch 64", old, "C0"), (name, sweep, "C1")):
        ax.plot(one.curve.lr, one.curve.mean, "o-", markersize=4, color=color, label=label)
        ax.axvline(one.choice.lr, color=color, linestyle=":")
    ax.axvline(old.choice.lr * 10**sweep.expected, color="0.4", linestyle="--", linewidth=1)
    ax.set(xscale="log", xlabel="peak learning rate", ylabel="minus log loss", title=f"{name}: {verdict}")
    ax.set_ylim(-2, -1.1)
    ax.legend(loc="lower center")
for mup, ax in zip((False, True), axes[1], strict=False):
    plot_coordinate_check(coordinates[mup], ax=ax)
low, high = (f([ax.get_ylim()[i] for ax in axes[1, :2]]) for i, f in enumerate((min, max)))
for ax in axes[1, :2]:
    ax.set_ylim(low, high)
figure.savefig("plot_09_transfer.png", dpi=120)
plt.show()
