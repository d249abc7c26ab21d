"""
17. Augmented images and a validation set
=========================================

Image data often come as two Datasets: one for training, whose items are augmented at random each time they are read,
and one for validation, whose items are not. A search accepts both, and uses several seeds instead of folds.
"""

# %%
# Handwritten digits, each shifted by up to one pixel whenever it is read for training. The Dataset counts how many
# items are read; the count is printed below.
import matplotlib.pyplot as plt
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, Dataset

from sklr import LRGridSearchCV, NeuralNetClassifier, plot_lr_curve

digits = load_digits()


class Digits(Dataset):
    """Rows of the digits data as images of shape (1, 8, 8), shifted at random if `augment`."""

    def __init__(self, rows, augment=False):
        self.images = torch.tensor(digits.images[rows] / 16, dtype=torch.float32)[:, None]
        self.targets, self.augment, self.n_read = digits.target[rows], augment, 0

    def __len__(self):
        return len(self.targets)

    def __getitem__(self, i):
        self.n_read += 1
        return self.shifted(self.images[i]) if self.augment else self.images[i], int(self.targets[i])

    def shifted(self, image):
        down, right = torch.randint(3, (2,)).tolist()
        return nn.functional.pad(image, (1, 1, 1, 1))[:, down : down + 8, right : right + 8]


train, val, test = Digits(slice(0, 400), augment=True), Digits(slice(400, 800)), Digits(slice(800, 1797))


# %%
# Pass two DataLoaders as in any training loop; the search uses their batch size and shuffling. Each of the three seeds
# has its own initial weights, batches and shifts, and all learning rates of a seed share them.
class ConvNet(nn.Sequential):
    def __init__(self, width=8):
        super().__init__(
            *(nn.Conv2d(1, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(width, 2 * width, 3, padding=1, bias=False), nn.BatchNorm2d(2 * width), nn.ReLU()),
            *(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(8 * width, 10)),
        )


net = NeuralNetClassifier(ConvNet, optimizer="adamw", schedule="onecycle", max_epochs=8)
search = LRGridSearchCV(net, lr_range=(1e-3, 1.0), n_lrs=7, n_seeds=3, random_state=0)
search.fit(DataLoader(train, batch_size=32, shuffle=True), validation=DataLoader(val, batch_size=200))
n_read = train.n_read
print(f"engine: {search.engine_}")
print(search.summary())
print(f"accuracy on {len(test)} images that no search has seen: {search.score(test, test.targets):.3f}")

# %%
# The cost of augmentation: each batch is read once for all learning rates of a seed. If they were trained one after
# another, each would read its own batches.
n_alone = (len(search.lr_curve_.lr) * search.n_seeds + 1) * net.max_epochs * len(train)
print(f"items read and shifted, with the final training: {n_read}; one training after another reads {n_alone}")

# %%
# The interval is valid for this validation set only: the seeds show how much a training varies, not how the result
# would change with another validation set.
figure = plt.figure(figsize=(11, 4), layout="constrained")
left, right = figure.subfigures(1, 2, width_ratios=(5, 4))
plot_lr_curve(search, ax=left.subplots())
right.suptitle("four training images, each as it is read in five epochs")
for i, axes in enumerate(right.subplots(4, 5)):
    for ax in axes:
        ax.imshow(train[i][0][0].numpy(), cmap="gray_r", vmin=0, vmax=1)
        ax.set(xticks=[], yticks=[])
figure.savefig("plot_17_augmented_images.png", dpi=120)
plt.show()
