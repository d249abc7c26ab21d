"""
13. A convolutional net on images
=================================

A search handles images like tables: pass an array of shape (n_samples, n_channels, height, width) and a module that
takes batches of it. All runs are still trained as one stack, including batch normalization.
"""

# %%
# The data are 1200 images of CIFAR-10 if OpenML answers within five seconds, and scikit-learn's handwritten digits
# otherwise. The first download takes some hundred megabytes, which scikit-learn caches. With the environment variable
# `SKLR_OFFLINE=1` nothing is downloaded.
import os
import socket
import warnings

import matplotlib.pyplot as plt
import numpy as np
from sklearn import datasets
from sklearn.model_selection import StratifiedKFold, train_test_split
from torch import nn

from sklr import LRGridSearchCV, NeuralNetClassifier, plot_lr_curve

CIFAR_10 = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


def fetch_cifar(timeout=5):
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(timeout)  # per response; `fetch_openml` has no timeout parameter
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about an unreachable network
            return datasets.fetch_openml("CIFAR_10_small", version=1, as_frame=False, return_X_y=True, n_retries=1)
    finally:
        socket.setdefaulttimeout(before)


def load_images(n_images=1200):
    try:
        if os.environ.get("SKLR_OFFLINE"):
            raise OSError("SKLR_OFFLINE is set")
        X, y = fetch_cifar()
    except (OSError, ImportError, ValueError) as error:
        X, y = datasets.load_digits(return_X_y=True)
        return (X[:n_images] / 16).reshape(-1, 1, 8, 8), y[:n_images], [*"0123456789"], f"digits ({error})"
    rows = np.random.default_rng(0).permutation(len(X))[:n_images]
    return (X[rows] / 255).reshape(-1, 3, 32, 32), y[rows].astype(int), CIFAR_10, "CIFAR-10"


X, y, names, what = load_images()
X = X.astype("float32")
print(f"images: {what}; {len(X)} of shape {X.shape[1:]}")
X_train, X_test, y_train, y_test = train_test_split(X, y, test_size=0.25, stratify=y, random_state=0)


# %%
class ConvNet(nn.Module):
    def __init__(self, n_channels, width=8, n_outputs=10):
        super().__init__()
        self.layers = nn.Sequential(
            *(nn.Conv2d(n_channels, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(width, 2 * width, 3, padding=1), nn.BatchNorm2d(2 * width), nn.ReLU()),
            *(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(8 * width, n_outputs)),
        )

    def forward(self, X):
        return self.layers(X)


net = NeuralNetClassifier(
    ConvNet,
    module__n_channels=X.shape[1],
    optimizer__momentum=0.9,
    schedule="onecycle",
    batch_size=32,
    max_epochs=5,
    iterator_train__shuffle=True,
)
folds = StratifiedKFold(3, shuffle=True, random_state=0)
search = LRGridSearchCV(net, lr_range=(1e-3, 3.0), n_lrs=8, cv=folds, random_state=0).fit(X_train, y_train)
print(f"engine: {search.engine_}")
print(search.summary())
print(f"accuracy on {len(X_test)} images that no search has seen: {search.score(X_test, y_test):.3f}")

# %%
# The LR curve, and some of the test images with the predicted classes (wrong ones in red).
figure = plt.figure(figsize=(11, 4), layout="constrained")
left, right = figure.subfigures(1, 2, width_ratios=(5, 4))
plot_lr_curve(search, ax=left.subplots())
shown = X_test[:15]
for ax, image, guess, truth in zip(right.subplots(3, 5).flat, shown, search.predict(shown), y_test[:15], strict=True):
    ax.imshow(image.transpose(1, 2, 0), cmap=None if len(image) == 3 else "gray_r")
    ax.set_title(names[guess], color="black" if guess == truth else "red", fontsize="medium")
    ax.set_axis_off()
figure.savefig("plot_13_images.png", dpi=120)
plt.show()
