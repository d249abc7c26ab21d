"""
11. How much warmup
===================

Some nets are unstable at their learning rate at the start of a training, but not later. For these a warmup helps. To
find out whether a net is one of them, and how long the warmup has to be, we make its training unstable on purpose.
"""

# %%
# A residual net with post-normalization (after each sum, as in the first transformers), trained with Adam. This
# combination is known to be delicate at the start of a training.
import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits
from torch import nn

from sklr import NeuralNetClassifier
from sklr.recipes import find_warmup

X, y = load_digits(return_X_y=True)
X, y = ((X - X.mean(axis=0)) / (X.std(axis=0) + 0.1))[:1024], y[:1024]


class PostNormNet(nn.Module):
    def __init__(self, n_inputs=64, n_outputs=10, width=24, depth=4):
        super().__init__()
        self.first, self.last = nn.Linear(n_inputs, width), nn.Linear(width, n_outputs)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width)) for _ in range(depth)
        )
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(depth))

    def forward(self, X):
        X = self.first(X)
        for block, norm in zip(self.blocks, self.norms, strict=True):
            X = norm(X + block(X))
        return self.last(X)


net = NeuralNetClassifier(PostNormNet, optimizer="adam", batch_size=64, max_epochs=12, iterator_train__shuffle=True)

# %%
# `find_warmup` first trains without warmup, to find the lowest unstable learning rate. Then it tries warmups at this
# learning rate and at three times it, each with three seeds; a warmup fails if one of its seeds does. The textbook uses
# ten times the unstable learning rate, but a net this small is unstable there with any warmup.
result = find_warmup(net, X, y, lr_range=(1e-3, 1.0), n_lrs=7, factors=(3, 1), n_warmups=7, random_state=0)
print(result)

# %%
# Each dot is a training; filled dots were unstable. With a warmup the best learning rate may change, so search it
# again, up to the highest one that is stable with this warmup.
figure, axes = plt.subplots(1, 2, figsize=(11, 4), sharey=True, layout="constrained")


def draw(ax, values, loss, unstable, color, label):
    final = np.nan_to_num(loss[..., -1], nan=10.0)
    x = np.broadcast_to(np.asarray(values)[:, None], final.shape)
    ax.plot(values, np.median(final, axis=1), color=color, lw=1, label=label)
    ax.plot(x[~unstable], final[~unstable], "o", color=color, mfc="white")
    ax.plot(x[unstable], final[unstable], "o", color=color)


draw(axes[0], result.lrs, result.lr_loss, result.lr_unstable, "C0", "median of 3 seeds")
axes[0].axvline(result.unstable_lr, color="0.3", ls="--", lw=1, label="unstable from here on")
axes[0].set(xscale="log", yscale="log", xlabel="learning rate, no warmup", ylabel="training loss in the last epoch")
places = np.arange(len(result.warmup_steps))
for i, factor in enumerate(result.factors):
    label = f"lr {factor * result.unstable_lr:.2g}"
    draw(axes[1], places, result.warmup_loss[i], result.warmup_unstable[i], f"C{i + 1}", label)
if result.n_steps is not None:
    place = result.warmup_steps.tolist().index(result.n_steps)
    axes[1].axvline(place, color="0.3", ls="--", lw=1, label=f"suggested: {result.n_steps} steps")
axes[1].set_xticks(places, result.warmup_steps)
axes[1].set_xlabel("warmup, optimizer steps")
for ax in axes:
    ax.legend(fontsize="small")
    ax.grid(alpha=0.3)
figure.savefig("plot_11_warmup.png", dpi=120)
plt.show()
