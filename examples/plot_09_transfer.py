"""
9. From a small model to a large one
====================================

A learning rate found with small batches or a narrow net is carried to large ones by a rule. Rules have conditions, so
each is checked: a few steps at several widths, or a short sweep at both sizes.
"""

# %%
# Another batch size is one call. All that has to change comes back, under the names that `set_params` takes.
import matplotlib.pyplot as plt
import numpy as np
import torch
from sklearn.model_selection import ShuffleSplit

from sklr import MLP, NeuralNetClassifier
from sklr.plotting import plot_coordinate_check
from sklr.scaling import Transfer, mup_param_groups, transfer_lr
from sklr.transfer import coordinate_check, gradient_noise_scale, verify_transfer

print(transfer_lr(0.006, optimizer="adam", batch_size=(64, 256)))

# %%
# Rows labelled by a random teacher, and a net of three hidden layers. The rule for batches ends at the noise scale.
generator = np.random.default_rng(0)
X = generator.standard_normal((4500, 32)).astype("float32")
outputs = np.maximum(X @ generator.standard_normal((32, 64)), 0) @ generator.standard_normal((64, 10))
y = ((outputs - outputs.mean(axis=0)) / outputs.std(axis=0)).argmax(axis=1)

base, wide, lr = 64, 256, 0.006
hidden = {width: (width,) * 3 for width in (base, wide)}
net = NeuralNetClassifier(
    MLP, module__hidden=hidden[base], optimizer="adam", max_epochs=2, batch_size=64, iterator_train__shuffle=True
)
print(gradient_noise_scale(net, X, y, random_state=0))

# %%
# A net four times as wide. muP gives every parameter its share of the learning rate, told from the shapes alone.
groups = mup_param_groups(MLP(32, 10, hidden=hidden[wide]), MLP(32, 10, hidden=hidden[base]), lr, "adam")
print(groups)

# %%
# Does the best learning rate stay where it was? With one learning rate for all parameters it falls; under muP it stays.
rules = {
    "one lr for all": Transfer(lr, lr, wide / base, {"module__hidden": hidden[wide]}, "the lr stays"),
    "muP": groups.as_transfer(MLP, module__hidden=hidden[wide]),
}
folds = ShuffleSplit(1, test_size=1 / 3, random_state=0)
check = verify_transfer(
    net, X, y, list(rules.values()), cv=folds, n_seeds=3, n_lrs=8, scoring="neg_log_loss", random_state=0
)
print(f"first one lr for all, then muP\n{check}")

# %%
# Three steps on one batch show why: the outputs of the layers move further the wider the net, unless it is muP.
batch = torch.as_tensor(X[:64]), torch.as_tensor(y[:64])
widths = (64, 128, 256)
coordinates = {
    mup: coordinate_check(
        lambda width: MLP(32, 10, hidden=(width,) * 3), widths, *batch, lr=lr, mup=mup, random_state=0
    )
    for mup in (False, True)
}

# %%
figure, axes = plt.subplots(2, 2, figsize=(11, 7.5), layout="constrained")
old = check.sweeps[0]
for name, new, verdict, ax in zip(rules, check.sweeps[1:], check.verdicts, axes[0], strict=True):
    for width, sweep in ((base, old), (wide, new)):
        (line,) = ax.plot(sweep.curve.lr, sweep.curve.mean, "o-", markersize=4, label=f"width {width}")
        ax.axvline(sweep.choice.lr, color=line.get_color(), linestyle=":")
    ax.set(xscale="log", xlabel="peak learning rate", ylabel="minus log loss", title=f"{name}: {verdict}")
    ax.set_ylim(-2, None)
    ax.legend(loc="lower center")
for mup, ax in zip((False, True), axes[1], strict=True):
    plot_coordinate_check(coordinates[mup], ax=ax)
low, high = (f([ax.get_ylim()[i] for ax in axes[1]]) for i, f in enumerate((min, max)))
for ax in axes[1]:
    ax.set_ylim(low, high)
figure.savefig("plot_09_transfer.png", dpi=120)
plt.show()
