"""What the three nets share: data in and out, devices, random streams, and the story of a training."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch
from sklearn.callback import CallbackSupportMixin, with_callbacks
from sklearn.utils import Tags, check_consistent_length, check_random_state
from sklearn.utils.validation import _check_sample_weight, validate_data
from skorch import NeuralNet
from skorch.callbacks.scoring import ScoringBase
from skorch.dataset import Dataset, get_len
from skorch.utils import to_tensor
from torch import Tensor
from torch.utils.data import DataLoader

from sklr import _net_data as data
from sklr._callback_bridge import ToldCallbacks, raised_by_callback
from sklr._named import best_device, resolve_criterion, resolve_optimizer
from sklr._random import RandomStream
from sklr.callbacks import LRSchedule

_SCHEDULE_PARAMS = ("schedule", "warmup_epochs", "schedule_epochs")
_WHILE_TRAINING = (  # what a copy made in the middle of a training must not take along
    "_told",
    "_sample_weight",
    "_batch_weight",
    "_by_number",
    "_callback_fit_ctx",
    "_skl_callbacks_to_teardown",
)


class _Hidden:
    """A fitted attribute that skorch sets in `__init__`, kept where scikit-learn does not see it before `fit`."""

    def __set_name__(self, owner: type, name: str) -> None:
        self.name, self.key = name, f"_{name}"

    def __get__(self, net: Any, owner: type | None = None) -> Any:
        if net is None:
            return self
        if self.key not in vars(net):
            raise AttributeError(f"{type(net).__name__!r} object has no attribute {self.name!r}")
        return vars(net)[self.key]

    def __set__(self, net: Any, value: Any) -> None:
        vars(net)[self.key] = value


class BaseNet(CallbackSupportMixin, NeuralNet):
    """A skorch net that takes what scikit-learn's users hand over, and knows warmup, schedules and seeds.

    An engine that wants to pause between epochs makes a `fit` of these pieces, as `fit` itself does::

        X, y = net.start_fit(X, y)
        with net.random_world():
            net.notify("on_train_begin", X=X, y=y)
            net.fit_loop(X, y, epochs=1)  # again and again
            net.notify("on_train_end", X=X, y=y)
    """

    history_, initialized_, virtual_params_ = _Hidden(), _Hidden(), _Hidden()

    predict_nonlinearity: Any
    _world: RandomStream | None = None  # initial weights, dropout and all else that a training draws
    _batch_order: torch.Generator | None = None  # a stream of its own, so that it can be had without the rest
    _met_data = False
    _widths: dict[str, int] = {}  # noqa: RUF012 - replaced, never changed
    _by_number = False  # whether classes go by their number, as they do in the datasets a net trains on
    _sample_weight: Any = None
    _batch_weight: Tensor | None = None
    _told: ToldCallbacks | None = None

    def __init__(
        self,
        module: Any,
        criterion: Any,
        optimizer: Any = torch.optim.SGD,
        lr: float = 0.01,
        max_epochs: int = 10,
        batch_size: int = 128,
        iterator_train: Any = DataLoader,
        iterator_valid: Any = DataLoader,
        dataset: Any = Dataset,
        train_split: Any = None,
        callbacks: Any = None,
        predict_nonlinearity: Any = "auto",
        warm_start: bool = False,
        verbose: int = 0,
        device: Any = "auto",
        compile: bool = False,
        use_caching: Any = "auto",
        torch_load_kwargs: dict[str, Any] | None = None,
        warmup_epochs: float = 0,
        schedule: Any = None,
        schedule_epochs: int | None = None,
        random_state: Any = None,
        **kwargs: Any,
    ):
        super().__init__(
            module,
            criterion=criterion,
            optimizer=optimizer,
            lr=lr,
            max_epochs=max_epochs,
            batch_size=batch_size,
            iterator_train=iterator_train,
            iterator_valid=iterator_valid,
            dataset=dataset,
            train_split=train_split,
            callbacks=callbacks,
            predict_nonlinearity=predict_nonlinearity,
            warm_start=warm_start,
            verbose=verbose,
            device=device,
            compile=compile,
            use_caching=use_caching,
            torch_load_kwargs=torch_load_kwargs,
            **kwargs,
        )
        self.warmup_epochs = warmup_epochs
        self.schedule = schedule
        self.schedule_epochs = schedule_epochs
        self.random_state = random_state

    @with_callbacks
    def fit(self, X: Any, y: Any = None, sample_weight: Any = None, **fit_params: Any) -> BaseNet:
        """Train from the start: initial weights anew, then `max_epochs` epochs.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features), or what skorch takes
            Numbers of any kind. Tensors, dicts, datasets and arrays of more dimensions go to skorch as they are,
            but for their floats, which become the module's.
        y : array-like of shape (n_samples,) or (n_samples, n_targets), optional
            Labels or values; None where `X` is a dataset that has them.
        sample_weight : array-like of shape (n_samples,), optional
            How much each sample counts: a batch's loss is the weighted mean of its samples' losses.
        **fit_params
            Handed to the module's `forward` and to `train_split`, as in skorch.

        Returns
        -------
        self
        """
        data_ = self.start_fit(X, y, sample_weight)
        self._train(*data_, told=(X, y), sample_weight=sample_weight, _routing_method="fit", **fit_params)
        return self

    @with_callbacks
    def partial_fit(
        self, X: Any, y: Any = None, classes: Any = None, sample_weight: Any = None, **fit_params: Any
    ) -> BaseNet:
        """Train on for `max_epochs` epochs; optimizer, schedule and random streams continue.

        So `fit` of k epochs equals k times `partial_fit` of one (with `schedule_epochs=k` if there is a
        schedule), bit for bit where `random_state` is given.

        Parameters
        ----------
        X, y, sample_weight, **fit_params
            As in `fit`.
        classes : array-like of shape (n_classes,), optional
            All labels there will ever be; for a classifier's first call, if `y` may lack some.

        Returns
        -------
        self
        """
        self.check_training_readiness()
        fresh = not (self.initialized_ and self._met_data)
        X_, y_ = self._take_data(X, y, reset=fresh, classes=classes)
        if not self.initialized_:
            self.initialize()
        data_ = self._ready(X_), self._ready(y_)
        self._train(*data_, told=(X, y), sample_weight=sample_weight, _routing_method="partial_fit", **fit_params)
        return self

    def start_fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> tuple[Any, Any]:
        """Make the net ready for a new training, and return the data as `fit_loop` takes it.

        Validates the data, learns its width and classes, restarts the random streams and draws initial
        weights; with `warm_start` a fitted net keeps its weights and streams.
        """
        self.check_training_readiness()
        anew = not (self.warm_start and self.initialized_)
        X, y = self._take_data(X, y, reset=anew)
        if sample_weight is not None:
            self._check_weights(y, _checked_weights(sample_weight, X))
        if anew:
            self.initialize()
        return self._ready(X), self._ready(y)

    def random_world(self) -> AbstractContextManager[Any]:
        """Return the context of everything this training draws; entering it again goes on where it was left."""
        return nullcontext() if self._world is None else self._world

    def _train(self, X: Any, y: Any, told: tuple[Any, Any], sample_weight: Any, **fit_params: Any) -> None:
        """Train until the epochs are over or a callback ends it; a Ctrl-C is passed on, once all is tidy."""
        epochs = fit_params.get("epochs")
        interrupt = None
        with self.random_world():
            self._told = ToldCallbacks(self, self.max_epochs if epochs is None else epochs, *told, sample_weight)
            self.notify("on_train_begin", X=X, y=y)
            try:
                self.fit_loop(X, y, sample_weight=sample_weight, **fit_params)
            except KeyboardInterrupt as error:
                interrupt = None if raised_by_callback(error) else error
            finally:
                told_callbacks, self._told = self._told, None
            self.notify("on_train_end", X=X, y=y)
        if interrupt is not None:
            raise interrupt
        told_callbacks.on_train_end()

    def fit_loop(
        self, X: Any, y: Any = None, epochs: int | None = None, *, sample_weight: Any = None, **fit_params: Any
    ) -> BaseNet:
        """Train for some epochs on data made ready by `start_fit`, as in skorch; sample weights go to the loss."""
        self._sample_weight = None if sample_weight is None else _checked_weights(sample_weight, X)
        try:
            return super().fit_loop(X, y, epochs, **fit_params)
        finally:
            self._sample_weight = self._batch_weight = None

    def notify(self, method_name: str, **cb_kwargs: Any) -> None:
        """Tell the net itself, skorch's callbacks, then scikit-learn's."""
        getattr(self, method_name)(self, **cb_kwargs)
        for _, callback in self.callbacks_:
            # scores compare predictions with the targets of a dataset, where classes are numbers
            self._by_number = isinstance(callback, ScoringBase)
            try:
                getattr(callback, method_name)(self, **cb_kwargs)
            finally:
                self._by_number = False
        if method_name in ("on_epoch_begin", "on_epoch_end") and self._told is not None:
            getattr(self._told, method_name)()

    def _take_data(self, X: Any, y: Any, reset: bool, classes: Any = None) -> tuple[Any, Any]:
        X = self._check_X(X, reset)
        targets = data.target_array(X, y)
        if targets is not None:
            y = self._check_targets(targets, reset, classes)
            check_consistent_length(y, *([X] if hasattr(X, "shape") else []))
        elif data.is_table(X) and self.dataset is Dataset and self.iterator_train is DataLoader:
            name = type(self).__name__
            raise ValueError(f"This {name} estimator requires y to be passed, but the target y is None.")
        else:
            self._forget_targets()
            super().check_data(X, y)
        if reset:
            n_inputs, n_targets = data.sample_shape(X, y)
            found = {"n_inputs": n_inputs, "n_outputs": self._n_outputs(n_targets)}
            self._widths = {name: width for name, width in found.items() if width is not None}
        self._met_data = True
        return X, y

    def _check_X(self, X: Any, reset: bool) -> Any:
        if data.is_table(X) and self.dataset is Dataset:
            return validate_data(self, X, reset=reset, accept_sparse="csr")
        if reset:
            for learned in ("n_features_in_", "feature_names_in_"):
                self.__dict__.pop(learned, None)
        return X

    def _check_targets(self, y: Any, reset: bool, classes: Any = None) -> np.ndarray:
        raise NotImplementedError  # what a target may be is what tells the three nets apart

    def _forget_targets(self) -> None:
        """Forget what the targets of an earlier training were like: the ones now are left to skorch."""

    def _n_outputs(self, n_targets: int | None) -> int | None:
        return n_targets

    def _check_weights(self, y: Any, weights: np.ndarray) -> None:
        """Refuse sample weights that leave nothing to learn."""

    def _ready(self, X: Any) -> Any:
        return data.as_numbers(X, data.float_dtype(self.module_))

    def check_data(self, X: Any, y: Any = None) -> None:
        """Leave data to skorch's own check, unless `start_fit` or `partial_fit` have seen it."""
        if not self._met_data:
            super().check_data(X, y)

    def get_split_datasets(self, X: Any, y: Any = None, **fit_params: Any) -> tuple[Any, Any]:
        """Return the datasets to train and to validate on (None without `train_split`), with any sample weights."""
        if self._sample_weight is None:
            return super().get_split_datasets(X, y, **fit_params)
        weighted = data.WeightedDataset(self.get_dataset(X, y), self._sample_weight)
        return super().get_split_datasets(weighted, y, **fit_params)

    def get_iterator(self, dataset: Any, training: bool = False) -> Any:
        """Return the batches of a dataset, as in skorch."""
        batches = super().get_iterator(dataset, training=training)
        return data.WeightedBatches(batches, self._set_batch_weight) if data.carries_weights(dataset) else batches

    def _set_batch_weight(self, weight: Tensor) -> None:
        self._batch_weight = weight

    def get_params_for(self, prefix: str) -> dict[str, Any]:
        """Return the parameters of a part of the net; the batches also get their random stream."""
        params = super().get_params_for(prefix)
        # a loader draws even where it does not shuffle; predictions are to draw from no one's stream
        stream = {"iterator_train": self._batch_order, "iterator_valid": torch.Generator()}.get(prefix)
        if stream is not None:
            iterator = getattr(self, prefix)
            is_loader = isinstance(iterator, type) and issubclass(iterator, DataLoader)
            if is_loader and not params.keys() & {"generator", "sampler", "batch_sampler"}:
                params["generator"] = stream
        return params

    def forward_iter(self, X: Any, training: bool = False, device: Any = "cpu") -> Any:
        """Yield the module's outputs batch by batch, as in skorch; tables are validated first."""
        self.check_is_fitted()
        if not self._by_number:  # a scoring callback hands in data that went through here before
            X = self._ready(self._check_X(X, reset=False))
        return super().forward_iter(X, training=training, device=device)

    def infer(self, x: Any, **fit_params: Any) -> Any:
        """Return the module's outputs for a batch, whose floats are cast to the module's own."""
        dtype = data.float_dtype(self.module_)
        x = to_tensor(x, device=self.device)
        return super().infer(x if dtype is None else data.cast_floats(x, dtype), **fit_params)

    def get_loss(self, y_pred: Any, y_true: Any, *args: Any, **kwargs: Any) -> Tensor:
        """Return the loss of a batch: targets take the shape and dtype of the outputs, sample weights count."""
        y_true = to_tensor(y_true, device=self.device)
        criterion = getattr(self.criterion_, "_orig_mod", self.criterion_)  # a compiled one has it inside
        if isinstance(y_pred, Tensor) and isinstance(y_true, Tensor):
            y_true = data.fit_target(y_true, y_pred, criterion)
        if self._batch_weight is None:
            return super().get_loss(y_pred, y_true, *args, **kwargs)
        with data.one_loss_each(criterion):
            losses = super().get_loss(y_pred, y_true, *args, **kwargs)
        return data.weighted_loss(losses, self._batch_weight, y_true, criterion)

    @property
    def _default_callbacks(self) -> list[tuple[str, Any]]:
        schedule = LRSchedule(self.schedule, self.warmup_epochs, self.schedule_epochs)
        return [("lr_schedule", schedule), *super()._default_callbacks]

    def initialize(self) -> BaseNet:
        """Create module, criterion, optimizer and callbacks anew, and start the random streams."""
        self.device_ = best_device() if vars(self)["device"] == "auto" else self.device
        self._world, self._batch_order = _random_streams(self.random_state)
        with self.random_world():
            return super().initialize()

    def initialized_instance(self, instance_or_cls: Any, kwargs: dict[str, Any]) -> Any:
        """Return a module or criterion, made from a class, a name or an instance; widths are filled in."""
        if instance_or_cls is self.module and not isinstance(self.module, torch.nn.Module):
            kwargs = {**_wanted(self.module, self._widths), **kwargs}
        return super().initialized_instance(resolve_criterion(instance_or_cls), kwargs)

    def initialize_optimizer(self, *args: Any, **kwargs: Any) -> BaseNet:
        """Create the optimizer, given by class or by name."""
        named = self.get_all_learnable_params()
        args, kwargs = self.get_params_for_optimizer("optimizer", named)
        self.optimizer_ = resolve_optimizer(self.optimizer)(*args, **kwargs)
        return self

    @property
    def device(self) -> Any:
        """The device in use: for "auto" the one found when the net was initialized."""
        asked = vars(self)["device"]
        return vars(self).get("device_", asked) if isinstance(asked, str) and asked == "auto" else asked

    @device.setter
    def device(self, value: Any) -> None:
        self.__dict__["device"] = value

    def _get_param_names(self) -> list[str]:
        return [name for name in super()._get_param_names() if not name.startswith("_")]

    def get_params(self, deep: bool = True, **kwargs: Any) -> dict[str, Any]:
        """Return the parameters as they were given, nested ones too if `deep`."""
        return {**super().get_params(deep=deep, **kwargs), "device": vars(self)["device"]}

    def set_params(self, **params: Any) -> BaseNet:
        """Set parameters; on a fitted net lr, schedule and the optimizer's take effect at once."""
        if not self.initialized_ and "callbacks" in params:  # skorch would initialize them, and so refuse nonsense
            self.callbacks = params.pop("callbacks")
        # new parameters of the module draw weights anew: those that the seed gives, and no one else's
        with nullcontext() if self._world is None else RandomStream(self._world.seed):
            super().set_params(**params)
        schedule = dict(getattr(self, "callbacks_", [])).get("lr_schedule")
        if isinstance(schedule, LRSchedule):
            schedule.set_params(**{name: params[name] for name in _SCHEDULE_PARAMS if name in params})
        return self

    def trim_for_prediction(self) -> None:
        """Drop all that only training needs, as in skorch; predictions stay what they were."""
        if self.predict_nonlinearity == "auto":  # it is read off the criterion, which goes
            self.predict_nonlinearity = self._get_predict_nonlinearity()
        super().trim_for_prediction()

    def load_params(self, *args: Any, **kwargs: Any) -> None:
        """Load parameters, optimizer state and history saved by `save_params`, as in skorch."""
        asked = vars(self)["device"]
        super().load_params(*args, **kwargs)
        if asked == "auto":
            self.device = asked

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in super().__getstate__().items() if name not in _WHILE_TRAINING}

    def __setstate__(self, state: dict[str, Any]) -> None:
        asked, state = state["device"], dict(state)
        if isinstance(asked, str) and asked == "auto":
            state["device"] = state["device_"] = best_device()
        super().__setstate__(state)
        if isinstance(asked, str) and asked == "auto":
            self.device = asked


def _checked_weights(sample_weight: Any, X: Any) -> np.ndarray:
    """Return sample weights as an array of shape (n_samples,), in scikit-learn's words if they are wrong."""
    rows = np.empty((get_len(X), 0))
    return _check_sample_weight(sample_weight, rows, ensure_non_negative=True)


def _random_streams(random_state: Any) -> tuple[RandomStream | None, torch.Generator | None]:
    """Return the stream of a training and that of its batch order; none and none without a seed."""
    if random_state is None:
        return None, None
    world, order = check_random_state(random_state).randint(2**31 - 1, size=2)
    return RandomStream(int(world)), torch.Generator().manual_seed(int(order))


def _wanted(module: Callable[..., Any], widths: dict[str, int]) -> dict[str, int]:
    """Return the widths that a module's constructor names and that no one bound before."""
    try:
        named = inspect.signature(module).parameters
    except (TypeError, ValueError):  # not every callable tells
        return {}
    bound = getattr(module, "keywords", {})
    return {name: width for name, width in widths.items() if name in named and name not in bound}
