"""The base class of the three nets: validate data, train on it, predict. Their components are made in `_parts.py`."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
from sklearn.callback import CallbackSupportMixin, with_callbacks
from sklearn.utils import Tags, check_consistent_length
from sklearn.utils.validation import validate_data
from skorch.callbacks.scoring import ScoringBase
from skorch.dataset import Dataset, get_len
from skorch.utils import to_tensor
from torch import Tensor, nn
from torch.utils.data import DataLoader

from sklr._utils.sklearn import check_sample_weight
from sklr._utils.validation import must_be
from sklr._utils.warnings import warn
from sklr.callbacks import Resume, finished_epochs
from sklr.callbacks._epochs import no_batches
from sklr.exceptions import SettingsWarning
from sklr.nets import _data as data
from sklr.nets._accumulation import accumulated_step
from sklr.nets._conflicts import conflicts
from sklr.nets._fit_arguments import check_fit_arguments
from sklr.nets._mistakes import cast_weights, check_width_is_known
from sklr.nets._parts import NetParts
from sklr.nets._sklearn_callbacks import CallbackTasks, raised_by_callback
from sklr.nets._tables import check_columns


class BaseNet(CallbackSupportMixin, NetParts):
    """A skorch net that accepts scikit-learn's data, and supports warmup, schedules and seeds.

    An engine that pauses between epochs can compose a `fit` from these steps, as `fit` itself does::

        X, y = net.start_fit(X, y)
        with net.random_stream():
            net.notify("on_train_begin", X=X, y=y)
            net.fit_loop(X, y, epochs=1)  # as often as needed
            net.notify("on_train_end", X=X, y=y)
    """

    _data_checked = False
    _by_number = False  # whether labels are exchanged as class indices, as in the datasets a net trains on
    _sample_weight: Any = None
    _batch_weight: Tensor | None = None
    _callback_tasks: CallbackTasks | None = None
    _bce: Any = None  # turns outputs into probabilities, if the criterion is a binary cross entropy
    _two_columns = False  # whether one such output per row predicts two classes
    _n_targets: int | None = None  # numbers in a row of the targets, None if unknown
    _n_resumed_epochs = 0  # epochs of this training that `Resume` loaded from a file
    lr_find: Any  # set by `sklr.range_test`, which may import the nets but not the other way round
    _is_first_batch = False  # whether the outputs for the next batch are the first of a training
    _initializes_for_fit = False  # whether `initialize` is called at the start of a training

    def initialize(self) -> BaseNet:
        """Create module, criterion, optimizer and callbacks, and start the random streams."""
        super().initialize()
        if not self._initializes_for_fit:  # `fit` warns itself; an engine, which trains many runs, warns once for all
            self._warn_of_conflicts()
        return self

    def _initialize_to_fit(self) -> None:
        self._initializes_for_fit = True
        try:
            self.initialize()
        finally:
            self._initializes_for_fit = False

    @with_callbacks
    def fit(self, X: Any, y: Any = None, sample_weight: Any = None, **fit_params: Any) -> BaseNet:
        """Initialize the net and train it for `max_epochs` epochs.

        The initial weights are drawn anew, or are those of the module if it is an instance.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features), or any data that skorch accepts
            Finite numbers of any dtype. Tensors, dicts, datasets and arrays with more dimensions are passed to skorch
            unchanged, except that floats are cast to the module's dtype.
        y : array-like of shape (n_samples,) or (n_samples, n_targets), optional
            Labels or target values; None if `X` is a dataset that contains them.
        sample_weight : array-like of shape (n_samples,), optional
            Weight of each sample: the loss of a batch is the weighted mean of the losses of its samples.
        **fit_params
            Passed to the module's `forward` and to `train_split`, as in skorch.

        Returns
        -------
        self
        """
        data_ = self.start_fit(X, y, sample_weight)
        self._warn_of_conflicts()
        self._train(*data_, user_data=(X, y), sample_weight=sample_weight, _routing_method="fit", **fit_params)
        return self

    @with_callbacks
    def partial_fit(
        self, X: Any, y: Any = None, classes: Any = None, sample_weight: Any = None, **fit_params: Any
    ) -> BaseNet:
        """Continue the training for `max_epochs` epochs; optimizer, schedule and random streams continue.

        One `fit` of k epochs equals k calls of `partial_fit` with one epoch each (with `schedule_epochs=k` if there is
        a schedule), bit for bit if `random_state` is given.

        Parameters
        ----------
        X, y, sample_weight, **fit_params
            As in `fit`.
        classes : array-like of shape (n_classes,), optional
            All labels that may occur in later calls; for the first call of a classifier, if `y` may not contain all.

        Returns
        -------
        self
        """
        self.check_training_readiness()
        fresh = not (self.initialized_ and self._data_checked)
        X_, y_ = self._take_data(X, y, reset=fresh, classes=classes)
        if not self.initialized_:
            self._initialize_to_fit()
        self._take_new_groups()
        self._warn_of_conflicts()
        data_ = self._ready(X_), self._ready(y_)
        self._train(*data_, user_data=(X, y), sample_weight=sample_weight, _routing_method="partial_fit", **fit_params)
        return self

    def start_fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> tuple[Any, Any]:
        """Prepare the net for a new training, and return the data in the form that `fit_loop` takes.

        It validates the data, infers the number of features and the classes, restarts the random streams and draws
        initial weights. With `warm_start`, a fitted net keeps its weights and streams.
        """
        self.check_training_readiness()
        fresh = not (self.warm_start and self.initialized_)
        X, y = self._take_data(X, y, reset=fresh)
        if sample_weight is not None:
            self._check_weights(y, _checked_weights(sample_weight, X))
        if fresh:
            self._initialize_to_fit()
        self._take_new_groups()
        return self._ready(X), self._ready(y)

    def _warn_of_conflicts(self) -> None:
        for message in conflicts(self):
            warn(message, SettingsWarning)

    def _train(self, X: Any, y: Any, user_data: tuple[Any, Any], sample_weight: Any, **fit_params: Any) -> None:
        """Train until the last epoch or until a callback stops the training.

        A Ctrl-C, which skorch's `partial_fit` swallows, is raised again after `on_train_end`.
        """
        asked = fit_params.pop("epochs", None)
        epochs = self.max_epochs if asked is None else asked
        interrupt = None
        with self.random_stream():
            self._callback_tasks = CallbackTasks(self, epochs, *user_data, sample_weight)
            self.notify("on_train_begin", X=X, y=y)
            try:
                self.fit_loop(
                    X, y, epochs=max(0, epochs - self._n_resumed_epochs), sample_weight=sample_weight, **fit_params
                )
            except KeyboardInterrupt as error:
                interrupt = None if raised_by_callback(error) else error
            finally:
                tasks, self._callback_tasks = self._callback_tasks, None
            self.notify("on_train_end", X=X, y=y)
        if interrupt is not None:
            raise interrupt
        tasks.on_train_end()

    def fit_loop(
        self, X: Any, y: Any = None, epochs: int | None = None, *, sample_weight: Any = None, **fit_params: Any
    ) -> BaseNet:
        """Train for some epochs on data returned by `start_fit`, as in skorch; sample weights are used in the loss."""
        check_fit_arguments(self, fit_params.keys() - {"_routing_method"})
        self._sample_weight = None if sample_weight is None else _checked_weights(sample_weight, X)
        try:
            return super().fit_loop(X, y, epochs, **fit_params)
        finally:
            self._sample_weight = self._batch_weight = None

    def on_train_begin(self, net: Any, X: Any = None, y: Any = None, **kwargs: Any) -> None:
        """Load a training that `Resume` has saved, before any callback reads the history."""
        super().on_train_begin(net, X=X, y=y, **kwargs)
        self._is_first_batch = True
        resuming = [callback for _, callback in self.callbacks_ if isinstance(callback, Resume)]
        self._n_resumed_epochs = sum(callback.load(self, X, y) for callback in resuming)

    def notify(self, method_name: str, **cb_kwargs: Any) -> None:
        """Notify the net itself, then skorch's callbacks, then scikit-learn's."""
        getattr(self, method_name)(self, **cb_kwargs)
        for _, callback in self.callbacks_:
            # scoring callbacks compare predictions with the targets in a dataset, which are class indices
            self._by_number = isinstance(callback, ScoringBase)
            try:
                getattr(callback, method_name)(self, **cb_kwargs)
            finally:
                self._by_number = False
        if method_name in ("on_epoch_begin", "on_epoch_end") and self._callback_tasks is not None:
            getattr(self._callback_tasks, method_name)()

    def _take_data(self, X: Any, y: Any, reset: bool, classes: Any = None) -> tuple[Any, Any]:
        X = self._check_X(X, reset)
        targets = data.target_array(X, y)
        if targets is not None:
            y = self._check_targets(targets, reset, classes)
            check_consistent_length(y, *([X] if hasattr(X, "shape") else []))
        elif y is None and data.is_table(X) and self.dataset is Dataset and self.iterator_train is DataLoader:
            name = type(self).__name__
            raise ValueError(f"This {name} estimator requires y to be passed, but the target y is None.")
        else:
            self._forget_targets()
            self._data_checked = False  # so that `check_data`, which users may override, runs skorch's own checks
            self.check_data(X, y)
        if reset:
            if isinstance(X, np.ndarray | Tensor):
                check_width_is_known(self, tuple(X.shape))
            n_inputs, n_targets = data.sample_shape(X, y)
            self._n_targets = n_targets
            found = {"n_inputs": n_inputs, "n_outputs": self._n_outputs(n_targets)}
            self._widths = {name: width for name, width in found.items() if width is not None}
        self._data_checked = True
        return X, y

    def _check_X(self, X: Any, reset: bool) -> Any:
        if isinstance(X, DataLoader):
            advice = (
                "Pass its dataset, and batch_size and iterator_train__shuffle to the net. Searches take DataLoaders."
            )
            raise TypeError(must_be("X", "rows or a Dataset for a net by itself", "a DataLoader", advice))
        if data.is_table(X) and self.dataset is Dataset:
            try:
                return validate_data(self, X, reset=reset, accept_sparse="csr")
            except (TypeError, ValueError) as error:
                check_columns(X, error)
                raise
        if self.dataset is Dataset:
            data.check_finite_rows(X)
            data.check_inputs(X)
        if reset:
            for learned in ("n_features_in_", "feature_names_in_"):
                self.__dict__.pop(learned, None)
        return X

    def _check_targets(self, y: Any, reset: bool, classes: Any = None) -> np.ndarray:
        raise NotImplementedError  # each of the three nets accepts another kind of target

    def _forget_targets(self) -> None:
        """Reset what was learned from the targets of an earlier training; the present ones are handled by skorch."""

    def _n_outputs(self, n_targets: int | None) -> int | None:
        return n_targets

    def _check_weights(self, y: Any, weights: np.ndarray) -> None:
        """Raise a ValueError if the weights leave nothing to learn; the classifiers check that two classes remain."""

    def _ready(self, X: Any) -> Any:
        return data.as_numbers(X, data.float_dtype(self.module_))

    def check_data(self, X: Any, y: Any = None) -> None:
        """Check the data as skorch does, unless `start_fit` or `partial_fit` has already validated it."""
        if not self._data_checked:
            super().check_data(X, y)

    def get_split_datasets(self, X: Any, y: Any = None, **fit_params: Any) -> tuple[Any, Any]:
        """Return the training and the validation dataset (None without `train_split`), including sample weights."""
        if self._sample_weight is None:
            return super().get_split_datasets(X, y, **fit_params)
        weighted = data.WeightedDataset(self.get_dataset(X, y), self._sample_weight)
        return super().get_split_datasets(weighted, y, **fit_params)

    def get_iterator(self, dataset: Any, training: bool = False) -> Any:
        """Return the batch iterator of a dataset, as in skorch."""
        make = partial(super().get_iterator, dataset, training=training)
        batches = data.FreshBatches(make) if training and self.batches_grow else make()
        return data.WeightedBatches(batches, self._set_batch_weight) if data.carries_weights(dataset) else batches

    def _set_batch_weight(self, weight: Tensor) -> None:
        self._batch_weight = weight

    def ready_to_predict(self, X: Any) -> Any:
        """Return data as `predict` passes it to the dataset: validated, and in dtypes that torch supports."""
        return self._ready(self._check_X(X, reset=False))

    def forward_iter(self, X: Any, training: bool = False, device: Any = "cpu") -> Any:
        """Yield the module's outputs batch by batch, as in skorch; tables are validated first."""
        self.check_is_fitted()
        if not self._by_number:  # a scoring callback passes data that was validated before
            X = self.ready_to_predict(X)
        return super().forward_iter(X, training=training, device=device)

    def infer(self, x: Any, **fit_params: Any) -> Any:
        """Return the module's outputs for a batch; floats in it are cast to the module's dtype.

        An error of the module gets a note about its input: PyTorch's seldom name the shape and the dtype of the rows.
        """
        dtype = data.float_dtype(self.module_)
        x = to_tensor(x, device=self.device)
        x = x if dtype is None else data.cast_floats(x, dtype)
        try:
            return super().infer(x, **fit_params)
        except Exception as error:
            error.add_note(data.input_note(x))
            raise

    def initialize_criterion(self) -> BaseNet:
        """Create the criterion, as in skorch, and remember how its outputs become probabilities."""
        super().initialize_criterion()
        cast_weights(self.criterion_, self._float_dtype())
        self._bce = data.bce_probabilities(self.criterion_)
        return self

    def _get_predict_nonlinearity(self) -> Any:
        """Return the function from outputs to predictions, in at least float32: skorch's, or that for a BCE loss."""
        if self.predict_nonlinearity == "auto" and self._bce is not None:
            return partial(data.in_float32, partial(data.bce_columns, self._bce, self._two_columns))
        return partial(data.in_float32, super()._get_predict_nonlinearity())

    def run_single_epoch(self, iterator: Any, training: bool, *args: Any, **kwargs: Any) -> None:
        """Train or validate for an epoch, as in skorch; raise an error if there is no batch to train on."""
        super().run_single_epoch(iterator, training, *args, **kwargs)
        self._batch_weight = None  # validation batches may have no weights, and must not use those of the last batch
        if training and not self.history[-1].get("train_batch_count"):
            raise no_batches(self, len(self.history), iterator)

    def train_step_single(self, batch: Any, **fit_params: Any) -> dict[str, Any]:
        """Compute loss and gradient of a step, as in skorch; with `accumulate_steps` in parts of the batch."""
        if self.accumulate_steps == 1:
            return super().train_step_single(batch, **fit_params)
        rows = self.rows_at_once(len(finished_epochs(self)))
        assert rows is not None  # `check_training_readiness` refuses such nets
        return accumulated_step(self, batch, rows, **fit_params)

    def get_loss(self, y_pred: Any, y_true: Any, *args: Any, **kwargs: Any) -> Tensor:
        """Return the loss of a batch, with targets in the shape and dtype of the outputs, and with sample weights."""
        y_true = to_tensor(y_true, device=self.device)
        criterion = getattr(self.criterion_, "_orig_mod", self.criterion_)  # torch.compile wraps the criterion
        if not isinstance(y_pred, Tensor) and type(criterion).__module__ == nn.MSELoss.__module__:
            advice = "Return one tensor from forward, or override get_loss in a subclass of the net."
            rule = f"a tensor for criterion {type(criterion).__name__}"
            raise TypeError(must_be("the module's output", rule, type(y_pred).__name__, advice))
        if isinstance(y_pred, Tensor) and isinstance(y_true, Tensor):
            y_true = data.fit_target(y_true, y_pred, criterion)
        if self._batch_weight is None:
            return super().get_loss(y_pred, y_true, *args, **kwargs)
        with data.unreduced(criterion):
            losses = super().get_loss(y_pred, y_true, *args, **kwargs)
        return data.weighted_loss(losses, self._batch_weight, y_true, criterion)

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags


def _checked_weights(sample_weight: Any, X: Any) -> np.ndarray:
    """Return sample weights as an array of shape (n_samples,), validated with scikit-learn's error messages."""
    rows = np.empty((get_len(X), 0))
    return check_sample_weight(sample_weight, rows, ensure_non_negative=True)
