"""What is trained on the simulated device: small nets on a few digits, in folds of two sizes."""

from functools import partial

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.metrics import check_scoring
from sklearn.model_selection import KFold
from torch import nn

from sklr import MLP, NeuralNetClassifier
from sklr.engines import SequentialEngine, StackedEngine
from sklr.experiment.experiment import Cell, Experiment

X, Y = load_digits(return_X_y=True)
X, Y = (X / 16).astype("float32"), Y.astype("int64")
LRS = [{"lr": lr} for lr in (1e-2, 0.1)]
EVEN, UNEVEN = 48, 50  # rows: folds of 32 rows, or of 33 and 34
Double = partial(MLP, hidden=(16,), dtype=torch.float64)


class Layers(nn.Sequential):
    """Layers in float64; what each of them draws is drawn in `forward`."""

    def __init__(self, *layers):
        super().__init__(*layers)
        self.double()


def pictures(*after, norm=nn.Identity):
    """Return convolutions on the digits, with these layers after the first one."""
    first = nn.Unflatten(1, (1, 8, 8)), nn.Conv2d(1, 4, 3), norm(), nn.ReLU(), *after, nn.MaxPool2d(2)
    return Layers(*first, nn.Flatten(), nn.Linear(36, 10))


class Attention(nn.Module):
    """Attention over the rows of a digit, within a mask that is made on the way, or PyTorch's own layer."""

    def __init__(self, masked=False, layer=False, dropout=0.0):
        super().__init__()
        self.embed, self.masked, self.head = nn.Linear(8, 24), masked, nn.Linear(8, 10)
        self.layer = nn.TransformerEncoderLayer(24, 2, 16, dropout, batch_first=True) if layer else None
        self.double()

    def forward(self, X):
        h = self.embed(X.unflatten(1, (8, 8)))
        mask = torch.ones(8, 8, dtype=torch.bool, device=X.device).tril() if self.masked else None
        if self.layer is not None:
            return self.head(self.layer(h, src_mask=None if mask is None else ~mask).mean(1)[:, :8])
        q, k, v = h.chunk(3, -1)
        return self.head(nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask).mean(1))


class Called(nn.Module):
    """A function between two layers, called in `forward`: `nn.functional.dropout`, say."""

    def __init__(self, function):
        super().__init__()
        self.function, self.first, self.last = function, nn.Linear(64, 12), nn.Linear(12, 10)
        self.double()

    def forward(self, X):
        return self.last(self.function(self.first(X).relu(), training=self.training))


def net(module=Double, **params):
    defaults = {"batch_size": 8, "max_epochs": 2, "iterator_train__shuffle": True, "random_state": 0, "device": "cuda"}
    return NeuralNetClassifier(module, **{**defaults, **params})


def experiment(estimator, n_rows=UNEVEN, keep=True, **kwargs):
    folds = KFold(3, shuffle=True, random_state=0).split(X[:n_rows])
    cells = [Cell(k, 0, k, *rows) for k, rows in enumerate(folds)]
    return Experiment(
        estimator, X[:n_rows], Y[:n_rows], cells, check_scoring(estimator), keep_estimators=keep, **kwargs
    )


def train(estimator, n_rows=UNEVEN, engine=None, candidates=LRS, **kwargs):
    """Train candidates in all folds; return their outcomes, one after the other."""
    rows = (engine or StackedEngine()).start(experiment(estimator, n_rows, **kwargs), candidates).finish()
    return [outcome for row in rows for outcome in row]


def one_by_one(estimator, n_rows=UNEVEN, candidates=LRS, **kwargs):
    return train(estimator, n_rows, SequentialEngine(), candidates, **kwargs)


def reasons(estimator, n_rows=UNEVEN, candidates=LRS):
    return StackedEngine().unsupported(experiment(estimator, n_rows), candidates)


def losses(outcomes):
    return np.array([[row.train_loss for row in outcome.history] for outcome in outcomes])


def assert_agree(ours, theirs, rtol=1e-9):
    """Assert that runs are where runs that were trained one by one are: losses, weights, scores."""
    np.testing.assert_allclose(losses(ours), losses(theirs), rtol=rtol)
    for a, b in zip(ours, theirs, strict=True):
        assert a.test_scores == b.test_scores
        mine, other = (o.estimator.module_.state_dict() for o in (a, b))
        for name, value in other.items():
            found, wanted = mine[name].cpu().numpy(), value.cpu().numpy()
            np.testing.assert_allclose(found, wanted, rtol=0, atol=rtol * max(1, abs(wanted).max()), err_msg=name)
