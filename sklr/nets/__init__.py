"""The nets: skorch's, made for scikit-learn's data and for learning-rate schedules; how they do it is in `_base.py`."""

from __future__ import annotations

import inspect
from typing import Any, TypeVar

import numpy as np
import skorch
from scipy.special import logit
from sklearn.utils import Tags, check_array
from sklearn.utils.multiclass import type_of_target
from torch import Tensor, nn

from sklr._utils.validation import must_be
from sklr.nets._base import BaseNet
from sklr.nets._data import widened
from sklr.nets._labels import LabelNet
from sklr.nets._sklearn_callbacks import raised_by_callback

__all__ = ["NeuralNetBinaryClassifier", "NeuralNetClassifier", "NeuralNetRegressor", "raised_by_callback"]

_Net = TypeVar("_Net", bound=type[BaseNet])


def _spell_out(cls: _Net) -> _Net:
    """Show the parameters that the nets share in the signature, for `help`, editors and scikit-learn's HTML."""
    own = [p for p in inspect.signature(cls.__init__).parameters.values() if p.kind is not p.VAR_KEYWORD]
    shared = inspect.signature(BaseNet.__init__).parameters
    rest = [
        p if p.kind is p.VAR_KEYWORD else p.replace(kind=p.KEYWORD_ONLY)
        for name, p in shared.items()
        if name not in {p.name for p in own}
    ]
    cls.__init__.__signature__ = inspect.Signature([*own, *rest])  # type: ignore[attr-defined]
    return cls


@_spell_out
class NeuralNetClassifier(LabelNet, skorch.NeuralNetClassifier):
    """A classifier that trains any PyTorch module, with labels of any kind and the data scikit-learn takes.

    skorch's `NeuralNetClassifier` with more: its parameters, callbacks and methods all work here. By default
    the module returns logits, as `MLP` does, for the criterion is the cross entropy; for a module that
    returns probabilities say ``criterion=torch.nn.NLLLoss``, which is skorch's default.

    Parameters
    ----------
    module : class, callable or torch.nn.Module
        The module, or what makes one. Its parameters are set as `module__...`; those named `n_inputs` and
        `n_outputs` (features and classes) are found at `fit` if not set. Of an instance the net trains a copy, and
        every `fit` starts from the weights that the instance has, whatever the seed.
    criterion : class, str or torch.nn.Module, default=torch.nn.CrossEntropyLoss
        The loss, by class or by name ("cross_entropy", "nll", ...), with `criterion__...` parameters.
    classes : None or list, default=None
        All labels there are, if `y` may lack some; as in skorch an empty list leaves `y` and predictions
        alone, and labels that are not in `y` merely name its integers.
    optimizer : class or str, default=torch.optim.SGD
        By class or by name in any case ("sgd", "adamw", ...), with `optimizer__...` parameters.
    lr : float, default=0.01
        The peak learning rate.
    max_epochs : int, default=10
        Passes over the data in one `fit` or `partial_fit`.
    batch_size : int, default=128
        Rows in a step; -1 for all. Shuffle with `iterator_train__shuffle=True`, which is not skorch's default.
    train_split : None or callable, default=None
        How to hold out rows for validation while training; `skorch.dataset.ValidSplit(5)` is skorch's default.
    warmup_epochs : float, default=0
        Epochs in which the learning rate rises to `lr`, step by step.
    schedule : None, str, Schedule, torch scheduler class or callable, default=None
        What the learning rate does afterwards; see `sklr.schedules`.
    schedule_epochs : int, optional
        The epochs the schedule spans, if not `max_epochs`; for trainings made of several `partial_fit`.
    accumulate_steps : int, default=1
        Parts a step is made of: it has `batch_size * accumulate_steps` rows, `batch_size` of which are in memory at a
        time. Equal to the larger batch, but for batch norm, which sees the parts, and the draws of dropout. Stacked
        trainings take the larger batch.
    clip : None, float or str, default=None
        The largest norm of a step's gradient, or a percentile of the norms so far such as "p90"; see
        `sklr.callbacks.GradientClipping`.
    random_state : int, RandomState or None, default=None
        With a seed initial weights, batch order and dropout repeat bit for bit and the global generators
        stay as they were; with None they all draw from torch's global generator.
    device : str or torch.device, default="auto"
        Where to compute: "auto" is CUDA if there, then MPS, then the CPU.
    verbose : int, default=0
        Whether a table of the epochs is printed.
    iterator_train, iterator_valid, dataset, callbacks, predict_nonlinearity, warm_start, compile, \
use_caching, torch_load_kwargs
        As in `skorch.NeuralNet`.
    **kwargs
        Parameters of the parts, such as `module__hidden` or `optimizer__momentum`.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        The labels, sorted; `predict` returns these. Where a sample has several labels, their numbers.
    n_features_in_, feature_names_in_ : int and ndarray of str
        Columns seen at `fit`, and their names if they had such.
    module_, criterion_, optimizer_ : torch.nn.Module and torch.optim.Optimizer
        The parts in use.
    history_ : skorch.history.History
        One row an epoch, with `lr` (the net's, in its last step) and `train_loss` among others.

    Notes
    -----
    Floats are cast to the module's dtype, float32 unless it says otherwise. Integers stay integers, since an
    embedding needs them; `MLP` takes them as numbers.

    With `sample_weight` a batch's loss is the weighted mean of the losses of its samples, as if they were
    repeated; the weights are not handed to the module, as skorch's nets do.

    Examples
    --------
    >>> import numpy as np
    >>> from sklr.modules import MLP
    >>> X = np.array([[0.0, 0], [0, 1], [1, 0], [1, 1]])
    >>> net = NeuralNetClassifier(MLP, module__hidden=(16,), optimizer="adam", lr=0.1, max_epochs=30, random_state=0)
    >>> net.fit(X, ["same", "other", "other", "same"]).predict(X)
    array(['same', 'other', 'other', 'same'], dtype='<U5')
    >>> net.predict(X[:, :1])
    Traceback (most recent call last):
    ValueError: X has 1 features, but NeuralNetClassifier is expecting 2 features as input.
    """

    def __init__(self, module: Any, *, criterion: Any = nn.CrossEntropyLoss, classes: Any = None, **kwargs: Any):
        super().__init__(module, criterion=criterion, classes=classes, **kwargs)

    @property
    def classes_(self) -> np.ndarray:
        """The labels, in the order of `predict_proba`'s columns."""
        classes = super().classes_
        return np.arange(len(classes)) if self._encoded and self._by_number else classes

    def _given_classes(self) -> Any:
        return self.classes

    def _n_outputs(self, n_targets: int | None) -> int | None:
        if n_targets is not None and n_targets > 1:
            return n_targets
        known = getattr(self, "classes_", np.array([]))
        return len(known) if known.size else None

    def get_loss(self, y_pred: Any, y_true: Any, *args: Any, **kwargs: Any) -> Tensor:
        """Return the loss of a batch; for NLLLoss the outputs are probabilities, as in skorch."""
        if (
            self._encoded
            and isinstance(y_pred, Tensor)
            and isinstance(self.criterion_, nn.CrossEntropyLoss | nn.NLLLoss)
        ):
            n_outputs = y_pred.shape[1] if y_pred.ndim > 1 else 1
            if n_outputs < len(self.classes_):
                rule = f"at least {len(self.classes_)}, one per class"
                raise ValueError(must_be("the module's number of outputs", rule, n_outputs))
        if self._encoded and isinstance(self.criterion_, nn.BCELoss | nn.BCEWithLogitsLoss):
            self._check_labels_for_bce(y_pred, y_true)
        return super().get_loss(y_pred, y_true, *args, **kwargs)

    def _check_labels_for_bce(self, y_pred: Any, y_true: Any) -> None:
        """Check that there is a target for every output: binary cross entropy takes a column of 0 and 1 for each."""
        shape = tuple(np.shape(y_true))
        if isinstance(y_pred, Tensor) and y_pred.numel() != np.prod(shape):
            name = type(self.criterion_).__name__
            advice = (
                "Leave the criterion out for classes that exclude each other, use NeuralNetBinaryClassifier for two, "
                "or give y a column of 0 and 1 for each label."
            )
            rule = f"y must be of shape (n_samples, {y_pred[0].numel()}) where the criterion is {name}"
            raise ValueError(f"{rule}, got a batch of shape {shape}. {advice}")

    def predict_proba(self, X: Any) -> np.ndarray:
        """Return the probability of each class, shape (n_samples, n_classes), or that of each of several labels.

        Outputs that a module has beyond the classes seen are left out, and the others rescaled.
        """
        proba = super().predict_proba(X)
        n_classes = len(self.classes_) if self._encoded else proba.shape[1]
        if self.predict_nonlinearity != "auto" or proba.shape[1] <= n_classes:
            return proba
        return proba[:, :n_classes] / proba[:, :n_classes].sum(axis=1, keepdims=True)

    def predict(self, X: Any) -> np.ndarray:
        """Return the most probable label of each sample, shape (n_samples,).

        Where a sample has several labels, each 0 or 1, and the loss is a binary cross entropy: those that are more
        probable than not, shape (n_samples, n_labels).
        """
        proba = self.predict_proba(X)
        if self._bce is not None and ((self._n_targets or 1) > 1 or proba.ndim > 2 or proba.shape[1] > 2):
            return (proba > 0.5).astype(self._label_dtype)
        return self._decode((proba[:, : len(self.classes_)] if self._encoded else proba).argmax(axis=1))


@_spell_out
class NeuralNetBinaryClassifier(LabelNet, skorch.NeuralNetBinaryClassifier):
    """A classifier of two classes, for modules with one output: the logit of the second class.

    skorch's `NeuralNetBinaryClassifier` with what `NeuralNetClassifier` tells of; parameters not named here
    are as there.

    Parameters
    ----------
    module : class, callable or torch.nn.Module
        The module, or what makes one; it returns shape (n_samples,) or (n_samples, 1).
    criterion : class, str or torch.nn.Module, default=torch.nn.BCEWithLogitsLoss
        The loss, by class or by name; with "bce" the module returns probabilities.
    threshold : float, default=0.5
        `predict` returns the second class where its probability is above this.

    Attributes
    ----------
    classes_ : ndarray of shape (2,)
        The two labels, sorted; the second is the positive one.

    Examples
    --------
    >>> from sklr.modules import MLP
    >>> X, y = [[0.0], [1.0], [2.0], [3.0]], [-1, -1, 1, 1]
    >>> net = NeuralNetBinaryClassifier(MLP, module__hidden=(), lr=1.0, max_epochs=50, random_state=0).fit(X, y)
    >>> net.predict(X), net.set_params(threshold=1.0).predict(X)
    (array([-1, -1,  1,  1]), array([-1, -1, -1, -1]))
    >>> net.fit(X, [0, 1, 2, 1])
    Traceback (most recent call last):
    ValueError: Only binary classification is supported. The type of the target is multiclass.
    """

    def __init__(self, module: Any, *, criterion: Any = nn.BCEWithLogitsLoss, threshold: float = 0.5, **kwargs: Any):
        super().__init__(module, criterion=criterion, threshold=threshold, **kwargs)

    @property
    def classes_(self) -> np.ndarray:
        """The two labels; 0 and 1 where the targets were left to skorch."""
        return self.classes_inferred_ if self._encoded and not self._by_number else np.array([0, 1])

    def _check_kind(self, y: np.ndarray, classes: Any) -> None:
        for labels in (y, *([] if classes is None else [classes])):
            kind = type_of_target(labels, input_name="y")
            if kind not in ("binary", "continuous", "unknown"):  # the last two are refused in general
                raise ValueError(f"Only binary classification is supported. The type of the target is {kind}.")

    def _n_outputs(self, n_targets: int | None) -> int | None:
        return 1

    def predict(self, X: Any) -> np.ndarray:
        """Return the second label where its probability is above `threshold`, else the first, shape (n_samples,)."""
        above = self.predict_proba(X)[:, 1] > self.threshold
        return self._decode(above.astype(np.uint8))

    def decision_function(self, X: Any) -> np.ndarray:
        """Return the logit of the second class less that of `threshold`, shape (n_samples,).

        Above 0 `predict` returns the second class.
        """
        self.check_is_fitted()
        if self.predict_nonlinearity == "auto" and isinstance(self.criterion_, nn.BCEWithLogitsLoss):
            logits = self.forward(X)
            logits = widened(logits[0] if isinstance(logits, tuple) else logits).numpy(force=True)
        else:
            logits = logit(self.predict_proba(X)[:, 1])
        return logits - logit(self.threshold)

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_class = False
        return tags


@_spell_out
class NeuralNetRegressor(BaseNet, skorch.NeuralNetRegressor):
    """A regressor that trains any PyTorch module on one target or several.

    skorch's `NeuralNetRegressor` with what `NeuralNetClassifier` tells of; parameters not named here are as
    there. A target of shape (n_samples,) meets a module's output of shape (n_samples, 1) row by row, and
    predictions have the shape of the targets seen at `fit`; with a binary cross entropy they are probabilities.

    Parameters
    ----------
    module : class, callable or torch.nn.Module
        The module, or what makes one; `n_outputs` is the number of targets.
    criterion : class, str or torch.nn.Module, default=torch.nn.MSELoss
        The loss, by class or by name ("mse", "l1", "huber", ...).

    Examples
    --------
    >>> import numpy as np
    >>> from sklr.modules import MLP
    >>> X = np.linspace(-1, 1, 8).reshape(-1, 1)
    >>> net = NeuralNetRegressor(MLP, module__hidden=(), lr=0.5, max_epochs=50, random_state=0)
    >>> net.fit(X, 3 * X[:, 0]).predict(X[-1:]).round(3)
    array([3.])
    >>> net.fit(X, 3 * X).predict(X[-1:]).round(3)
    array([[3.]])
    """

    _target_ndim: int | None = None
    _target_dtype: Any = None

    def __init__(self, module: Any, *, criterion: Any = nn.MSELoss, **kwargs: Any):
        super().__init__(module, criterion=criterion, **kwargs)

    def _check_targets(self, y: Any, reset: bool, classes: Any = None) -> np.ndarray:
        y = check_array(y, ensure_2d=False, allow_nd=True, input_name="y", estimator=self)
        y = y if y.dtype.kind == "f" else y.astype(np.float64)
        self._target_ndim, self._target_dtype = y.ndim, y.dtype
        return y

    def _forget_targets(self) -> None:
        self._target_ndim = self._target_dtype = None

    @property
    def predict_proba(self) -> Any:
        """Not there: a regressor has no probabilities, and scikit-learn takes what has them for a classifier."""
        raise AttributeError(f"{type(self).__name__} has no predict_proba. Use predict, or forward for tensors.")

    def predict(self, X: Any) -> np.ndarray:
        """Return the prediction for each sample, in the shape and floating-point dtype of the targets of `fit`."""
        y = super().predict_proba(X)
        if self._target_ndim == 1 and y.ndim == 2 and y.shape[1] == 1:
            y = y[:, 0]
        return y if self._target_dtype is None else y.astype(self._target_dtype, copy=False)

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags
