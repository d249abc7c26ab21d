"""The nets: skorch's nets, extended for scikit-learn's data and for learning-rate schedules; see `_base.py`."""

from __future__ import annotations

import inspect
from typing import Any, TypeVar

import numpy as np
import skorch
from scipy.special import logit
from sklearn.utils import Tags, check_array
from sklearn.utils.multiclass import type_of_target
from torch import Tensor, nn

from sklr.nets._base import BaseNet
from sklr.nets._data import at_least_float32
from sklr.nets._labels import LabelNet
from sklr.nets._mistakes import check_indices, check_outputs
from sklr.nets._sklearn_callbacks import raised_by_callback

__all__ = ["NeuralNetBinaryClassifier", "NeuralNetClassifier", "NeuralNetRegressor", "raised_by_callback"]

_Net = TypeVar("_Net", bound=type[BaseNet])


def _spell_out(cls: _Net) -> _Net:
    """List the parameters inherited from `BaseNet` in the signature, for `help`, editors and scikit-learn's HTML."""
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
    """A classifier that trains any PyTorch module, on labels of any type and the data that scikit-learn accepts.

    It extends skorch's `NeuralNetClassifier`, whose parameters, callbacks and methods all work here. The default
    criterion is the cross entropy, so the module should return logits, as `MLP` does. For a module that returns
    probabilities, pass ``criterion=torch.nn.NLLLoss``, which is skorch's default.

    Parameters
    ----------
    module : class, callable or torch.nn.Module
        A module class, a function that returns a module, or a module instance. Arguments of the class or function are
        set as `module__...`; those named `n_inputs` and `n_outputs` (number of features and of classes) are inferred
        at `fit` if not set. The net trains a copy of an instance, and every `fit` starts from the weights of the
        instance, whatever the seed.
    criterion : class, str or torch.nn.Module, default=torch.nn.CrossEntropyLoss
        The loss, by class or by name ("cross_entropy", "nll", ...), with `criterion__...` parameters.
    classes : None or list, default=None
        All labels, if `y` may not contain some of them. As in skorch, with an empty list `y` and the predictions are
        not encoded; and if integers in `y` are not in `classes`, they are used as they are, and `classes` only names
        them.
    optimizer : class or str, default=torch.optim.SGD
        The optimizer, by class or by case-insensitive name ("sgd", "adamw", ...), with `optimizer__...` parameters.
    lr : float, default=0.01
        The peak learning rate.
    max_epochs : int, default=10
        Number of epochs of one `fit` or `partial_fit`.
    batch_size : int, default=128
        Number of rows in a batch; -1 for all rows. As in skorch, rows are not shuffled by default: pass
        `iterator_train__shuffle=True`.
    train_split : None or callable, default=None
        How to hold out rows for validation during training. None trains on all rows; skorch's default is
        `skorch.dataset.ValidSplit(5)`.
    warmup_epochs : float, default=0
        Number of epochs during which the learning rate rises, step by step, to `lr`.
    schedule : None, str, Schedule, torch scheduler class or callable, default=None
        How the learning rate changes after the warmup; see `sklr.schedules`.
    schedule_epochs : int, optional
        Number of epochs that the schedule spans, by default `max_epochs`. Set it if a training consists of several
        calls of `partial_fit`.
    accumulate_steps : int, default=1
        Number of batches over which gradients are accumulated for one optimizer step. A step uses `batch_size *
        accumulate_steps` rows, `batch_size` of which are in memory at a time. The result equals that of the larger
        batch, except for batch norm, which sees the smaller batches, and for the random numbers of dropout. Stacked
        training uses the larger batch.
    clip : None, float or str, default=None
        Maximum norm of the gradient of a step, or a percentile of the norms so far such as "p90"; see
        `sklr.callbacks.GradientClipping`.
    random_state : int, RandomState or None, default=None
        With a seed, initial weights, batch order and dropout are reproducible bit for bit, and the global random
        generators are left unchanged. With None they all draw from torch's global generator.
    device : str or torch.device, default="auto"
        The device to compute on; "auto" is CUDA if available, else MPS if available, else the CPU.
    verbose : int, default=0
        If not 0, print a table with a row per epoch.
    iterator_train, iterator_valid, dataset, callbacks, predict_nonlinearity, warm_start, compile, \
use_caching, torch_load_kwargs
        As in `skorch.NeuralNet`.
    **kwargs
        Parameters of the components, such as `module__hidden` or `optimizer__momentum`.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        The labels that `predict` returns, sorted unless `classes` was given. For multilabel targets, the indices of
        the labels.
    n_features_in_, feature_names_in_ : int and ndarray of str
        Number of features seen at `fit`, and their names if they had any.
    module_, criterion_, optimizer_ : torch.nn.Module and torch.optim.Optimizer
        The initialized module, criterion and optimizer.
    history_ : skorch.history.History
        One row per epoch, with `lr` (that of the net at the last step of the epoch) and `train_loss` among others.

    Notes
    -----
    Floats are cast to the dtype of the module's parameters, which is float32 by default. Integers stay integers, since
    an embedding needs them; `MLP` casts them itself.

    With `sample_weight` the loss of a batch is the weighted mean of the losses of its samples, as if samples were
    repeated. Unlike in skorch, the weights are not passed to the module.

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
        """The labels, in the order of the columns of `predict_proba`."""
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
        """Return the loss of a batch; as in skorch, with NLLLoss the module's outputs are probabilities."""
        if self._is_first_batch and isinstance(y_pred, Tensor):
            self._is_first_batch = False  # reading values makes a CUDA device wait, so later batches are not checked
            check_outputs(y_pred, self.criterion_, len(self.classes_) if self._encoded else 0)
            check_indices(y_true, y_pred, self.criterion_)
        if self._encoded and isinstance(self.criterion_, nn.BCELoss | nn.BCEWithLogitsLoss):
            self._check_labels_for_bce(y_pred, y_true)
        try:
            return super().get_loss(y_pred, y_true, *args, **kwargs)
        except IndexError:  # on a CPU PyTorch checks the targets of every batch
            check_indices(y_true, y_pred, self.criterion_)
            raise

    def _check_labels_for_bce(self, y_pred: Any, y_true: Any) -> None:
        """Check that `y` has a column of 0 and 1 for every output, as binary cross entropy requires."""
        shape = tuple(np.shape(y_true))
        if isinstance(y_pred, Tensor) and y_pred.numel() != np.prod(shape):
            name = type(self.criterion_).__name__
            advice = (
                "Use the default criterion for mutually exclusive classes, NeuralNetBinaryClassifier for two classes, "
                "or give y a column of 0 and 1 for each label."
            )
            rule = f"y must be of shape (n_samples, {y_pred[0].numel()}) with criterion {name}"
            raise ValueError(f"{rule}, got a batch of shape {shape}. {advice}")

    def predict_proba(self, X: Any) -> np.ndarray:
        """Return the probability of each class, shape (n_samples, n_classes), or for multilabel targets of each label.

        If the module has more outputs than classes were seen at `fit`, the extra ones are dropped and the other
        probabilities are renormalized.
        """
        proba = super().predict_proba(X)
        n_classes = len(self.classes_) if self._encoded else proba.shape[1]
        if self.predict_nonlinearity != "auto" or proba.shape[1] <= n_classes:
            return proba
        return proba[:, :n_classes] / proba[:, :n_classes].sum(axis=1, keepdims=True)

    def predict(self, X: Any) -> np.ndarray:
        """Return the most probable label of each sample, shape (n_samples,).

        For multilabel targets and a binary cross entropy, return 1 for each label with a probability above 0.5 and
        else 0, shape (n_samples, n_labels).
        """
        proba = self.predict_proba(X)
        if self._bce is not None and ((self._n_targets or 1) > 1 or proba.ndim > 2 or proba.shape[1] > 2):
            return (proba > 0.5).astype(self._label_dtype)
        return self._decode((proba[:, : len(self.classes_)] if self._encoded else proba).argmax(axis=1))


@_spell_out
class NeuralNetBinaryClassifier(LabelNet, skorch.NeuralNetBinaryClassifier):
    """A binary classifier for PyTorch modules with one output, the logit of the positive class.

    It extends skorch's `NeuralNetBinaryClassifier` as `NeuralNetClassifier` extends skorch's; parameters that are not
    listed here are documented there.

    Parameters
    ----------
    module : class, callable or torch.nn.Module
        A module class, a function that returns a module, or a module instance. The output has shape (n_samples,) or
        (n_samples, 1).
    criterion : class, str or torch.nn.Module, default=torch.nn.BCEWithLogitsLoss
        The loss, by class or by name; with "bce" the module returns probabilities.
    threshold : float, default=0.5
        `predict` returns the positive class if its probability is above the threshold.

    Attributes
    ----------
    classes_ : ndarray of shape (2,)
        The two labels, sorted; the second is the positive class.

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
        """The two labels; 0 and 1 if the net did not encode the targets, as with those inside a dataset."""
        return self.classes_inferred_ if self._encoded and not self._by_number else np.array([0, 1])

    def _check_kind(self, y: np.ndarray, classes: Any) -> None:
        for labels in (y, *([] if classes is None else [classes])):
            kind = type_of_target(labels, input_name="y")
            if kind not in ("binary", "continuous", "unknown"):  # `check_classification_targets` refuses these two
                raise ValueError(f"Only binary classification is supported. The type of the target is {kind}.")

    def _n_outputs(self, n_targets: int | None) -> int | None:
        return 1

    def get_loss(self, y_pred: Any, y_true: Any, *args: Any, **kwargs: Any) -> Tensor:
        """Return the loss of a batch; of the first one the outputs are checked."""
        if self._is_first_batch and isinstance(y_pred, Tensor):
            self._is_first_batch = False
            check_outputs(y_pred, self.criterion_, 1)
        return super().get_loss(y_pred, y_true, *args, **kwargs)

    def predict(self, X: Any) -> np.ndarray:
        """Return the positive label where its probability is above `threshold`, else the other; shape (n_samples,)."""
        above = self.predict_proba(X)[:, 1] > self.threshold
        return self._decode(above.astype(np.uint8))

    def decision_function(self, X: Any) -> np.ndarray:
        """Return the logit of the positive class minus the logit of `threshold`, shape (n_samples,).

        `predict` returns the positive class where this is above 0.
        """
        self.check_is_fitted()
        if self.predict_nonlinearity == "auto" and isinstance(self.criterion_, nn.BCEWithLogitsLoss):
            logits = self.forward(X)
            logits = at_least_float32(logits[0] if isinstance(logits, tuple) else logits).numpy(force=True)
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

    It extends skorch's `NeuralNetRegressor` as `NeuralNetClassifier` extends skorch's; parameters that are not listed
    here are documented there. Targets of shape (n_samples,) are reshaped to match outputs of shape (n_samples, 1), not
    broadcast. Predictions have the shape of the targets seen at `fit`; with a binary cross entropy they are
    probabilities.

    Parameters
    ----------
    module : class, callable or torch.nn.Module
        A module class, a function that returns a module, or a module instance; `n_outputs` is the number of targets.
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
        """Not available: scikit-learn treats an estimator with `predict_proba` as a classifier."""
        raise AttributeError(f"{type(self).__name__} has no predict_proba. Use predict, or forward for tensors.")

    def predict(self, X: Any) -> np.ndarray:
        """Return the prediction for each sample, in the shape and floating-point dtype of the targets seen at `fit`."""
        y = super().predict_proba(X)
        if self._target_ndim == 1 and y.ndim == 2 and y.shape[1] == 1:
            y = y[:, 0]
        return y if self._target_dtype is None else y.astype(self._target_dtype, copy=False)

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags
