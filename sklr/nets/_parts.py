"""What the nets are made of: parameters, devices, random streams, and module, criterion and optimizer made of them."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from sklearn.utils import check_random_state
from skorch import NeuralNet
from skorch.dataset import Dataset
from skorch.exceptions import DeviceWarning
from torch.utils.data import DataLoader

from sklr._utils.names import best_device, check_device, resolve_criterion, resolve_optimizer
from sklr._utils.random import RandomStream
from sklr._utils.validation import check_count, must_be
from sklr._utils.warnings import warn
from sklr.callbacks import BatchSizeSchedule, GradientClipping, LRSchedule, finished_epochs
from sklr.callbacks._net_lr import group_options
from sklr.nets._instances import check_arguments, copied, counterparts, has_hooks, wanted_widths
from sklr.schedules import resolve_schedule

_SCHEDULE_PARAMS = ("schedule", "warmup_epochs", "schedule_epochs")
_WHILE_TRAINING = (  # what a copy made in the middle of a training must not take along
    "_told",
    "_sample_weight",
    "_batch_weight",
    "_by_number",
    "_callback_fit_ctx",
    "_skl_callbacks_to_teardown",
    "get_split_datasets",  # of an engine that pauses
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


class NetParts(NeuralNet):
    """A skorch net whose parts may be given by name, whose sizes and device are found, and which a seed repeats."""

    history_, initialized_, virtual_params_ = _Hidden(), _Hidden(), _Hidden()

    predict_nonlinearity: Any
    _random_stream: RandomStream | None = None  # initial weights, dropout and all else that a training draws
    _batch_order: torch.Generator | None = None  # a stream of its own, so that it can be had without the rest
    _widths: dict[str, int] = {}  # noqa: RUF012 - replaced, never changed
    _new_groups = False  # whether optimizer__param_groups was set since the optimizer was made

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
        accumulate_steps: int = 1,
        clip: float | str | None = None,
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
        self.accumulate_steps = accumulate_steps
        self.clip = clip
        self.random_state = random_state

    def random_stream(self) -> AbstractContextManager[Any]:
        """Return the context of everything this training draws; entering it again goes on where it was left."""
        return nullcontext() if self._random_stream is None else self._random_stream

    @property
    def _default_callbacks(self) -> list[tuple[str, Any]]:
        schedule = LRSchedule(self.schedule, self.warmup_epochs, self.schedule_epochs)
        clipping = GradientClipping(self.clip)
        return [("lr_schedule", schedule), ("gradient_clipping", clipping), *super()._default_callbacks]

    def check_training_readiness(self) -> None:
        """Check what skorch checks, and the parameters that no part of the net checks for itself."""
        super().check_training_readiness()
        check_device(vars(self)["device"])
        resolve_schedule(self.schedule, self.warmup_epochs)
        resolve_optimizer(self.optimizer)
        resolve_criterion(self.criterion)
        if not isinstance(self.module, torch.nn.Module):
            check_arguments("module__", self.module, self.get_params_for("module"))
        check_count("accumulate_steps", self.accumulate_steps)
        if self.accumulate_steps > 1 and self.rows_at_once(0) is None:
            advice = "It sets the number of rows in a part, which a batch sampler, or -1 for all rows, does not."
            raise ValueError(must_be("batch_size", "at least 1 for accumulate_steps", self.batch_size, advice))

    def rows_at_once(self, epoch: int) -> int | None:
        """Return how many rows go through the module together in an epoch, counted from 0; None if there is no telling.

        This is the batch size, grown by a `BatchSizeSchedule` if there is one; a step is made of `accumulate_steps`
        times as many.
        """
        params = super().get_params_for("iterator_train")
        size = params.get("batch_size", self.batch_size)
        if "batch_sampler" in params or size == -1:
            return None
        schedule = self._batch_size_schedule()
        return size if schedule is None else schedule.batch_size(size, epoch)

    def rows_in_step(self, epoch: int) -> int | None:
        """Return how many rows a step is made of in an epoch, counted from 0; None if there is no telling."""
        rows = self.rows_at_once(epoch)
        return None if rows is None else rows * self.accumulate_steps

    @property
    def batches_grow(self) -> bool:
        """Whether the batches of one epoch may be of another size than those of another."""
        return self._batch_size_schedule() is not None

    def _batch_size_schedule(self) -> BatchSizeSchedule | None:
        callbacks = (callback for _, callback in getattr(self, "callbacks_", []))
        return next((callback for callback in callbacks if isinstance(callback, BatchSizeSchedule)), None)

    def initialize(self) -> NetParts:
        """Create module, criterion, optimizer and callbacks anew, and start the random streams."""
        asked = vars(self)["device"]
        self.device_ = best_device() if _is_auto(asked) else asked
        if _is_cuda(self.device_):  # its generator is swapped for the net's own only where there is one already
            torch.cuda.init()
        self._random_stream, self._batch_order = _random_streams(self.random_state)
        with self.random_stream():
            return super().initialize()

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
        if prefix == "iterator_train" and (self.accumulate_steps > 1 or self.batches_grow):
            rows = self.rows_in_step(len(finished_epochs(self)) if self.initialized_ else 0)
            if rows is not None:
                params["batch_size"] = rows
        return params

    def initialized_instance(self, instance_or_cls: Any, kwargs: dict[str, Any]) -> Any:
        """Return a module or criterion, made from a class, a name or an instance; widths are filled in.

        Of an instance a copy is made, so that the user's own is never trained and every training starts from it.
        """
        is_module = instance_or_cls is self.module
        known = {} if is_module else counterparts(self.module, getattr(self, "module_", None))
        kwargs = {name: known.get(id(value), value) for name, value in kwargs.items()}
        if isinstance(instance_or_cls, torch.nn.Module):
            return super().initialized_instance(instance_or_cls, kwargs) if kwargs else copied(instance_or_cls, known)
        if is_module:
            kwargs = {**wanted_widths(self.module, self._widths), **kwargs}
        return super().initialized_instance(resolve_criterion(instance_or_cls), kwargs)

    def initialize_optimizer(self, *args: Any, **kwargs: Any) -> NetParts:
        """Create the optimizer, given by class or by name."""
        named = self.get_all_learnable_params()
        args, kwargs = self.get_params_for_optimizer("optimizer", named)
        self.optimizer_ = resolve_optimizer(self.optimizer)(*args, **kwargs)
        self._new_groups = False
        return self

    def get_params_for_optimizer(self, prefix: str, named_parameters: Any) -> tuple[Any, dict[str, Any]]:
        """Return the optimizer's arguments, as in skorch; an `lr_multiplier` makes a group's lr relative to the net's.

        An lr that a group sets for itself stays as it is whatever lr the net has, which is no use in a search.
        """
        args, kwargs = super().get_params_for_optimizer(prefix, named_parameters)
        _check_multipliers(args[0])
        _scale_groups(args[0], kwargs["lr"])
        return args, kwargs

    @property
    def device(self) -> Any:
        """The device in use: for "auto", or loaded where there is no such device, the one found."""
        return vars(self).get("device_", vars(self)["device"])

    @device.setter
    def device(self, value: Any) -> None:
        self.__dict__["device"] = value
        self.__dict__.pop("device_", None)

    def _get_param_names(self) -> list[str]:
        return [name for name in super()._get_param_names() if not name.startswith("_")]

    def __sklearn_clone__(self) -> NetParts:
        """Return what `sklearn.base.clone` does; copies of module instances keep the hooks on their parameters."""
        own = super().__sklearn_clone__()
        for name, value in vars(self).items():
            if isinstance(value, torch.nn.Module) and name in vars(own) and has_hooks(value):
                vars(own)[name] = copied(value, {})
        return own

    def get_params(self, deep: bool = True, **kwargs: Any) -> dict[str, Any]:
        """Return the parameters as they were given, nested ones too if `deep`."""
        return {**super().get_params(deep=deep, **kwargs), "device": vars(self)["device"]}

    def set_params(self, **params: Any) -> NetParts:
        """Set parameters; on a fitted net lr, schedule and the optimizer's take effect at once.

        What a parameter group sets for itself, its lr for one, stays. New `optimizer__param_groups` take effect when
        training goes on.
        """
        if not self.initialized_ and "callbacks" in params:  # skorch would initialize them, and so refuse nonsense
            self.callbacks = params.pop("callbacks")
        options = {name: params.pop(name) for name in list(params) if self.initialized_ and _is_option(name)}
        self.__dict__.update(options)  # skorch would forget them at the next fit
        # new parameters of the module draw weights anew: those that the seed gives, and no one else's
        with nullcontext() if self._random_stream is None else RandomStream(self._random_stream.seed):
            super().set_params(**params)
        self._set_options(options)
        schedule = dict(getattr(self, "callbacks_", [])).get("lr_schedule")
        if isinstance(schedule, LRSchedule):
            schedule.set_params(**{name: params[name] for name in _SCHEDULE_PARAMS if name in params})
        clipping = dict(getattr(self, "callbacks_", [])).get("gradient_clipping")
        if isinstance(clipping, GradientClipping) and "clip" in params:
            clipping.set_params(clip=params["clip"])
        return self

    def _set_options(self, options: dict[str, Any]) -> None:
        """Give the optimizer's groups new options, but for those that a group sets for itself."""
        self._new_groups |= "optimizer__param_groups" in options
        if not options or self._new_groups or getattr(self, "optimizer_", None) is None:
            return  # the optimizer is made anew when training goes on, if it can
        new = {name.removeprefix("optimizer__"): value for name, value in options.items()}
        lr, is_new = self.get_params_for("optimizer").get("lr", self.lr), new.pop("lr", None) is not None
        for group, own in zip(self.optimizer_.param_groups, group_options(self), strict=True):
            group.update({name: value for name, value in new.items() if name not in own})
            if is_new and ("lr" not in own or "lr_multiplier" in own):
                group["lr"] = lr * own["lr_multiplier"] if "lr_multiplier" in own else lr
                group.pop("scheduled_lr", None)  # it is a new peak, even if a schedule had come to just that

    def _take_new_groups(self) -> None:
        """Make the optimizer anew if its parameter groups are to be others; what it knows of each parameter stays."""
        if self._new_groups:
            before = self.optimizer_
            self._initialize_optimizer()
            if type(self.optimizer_) is type(before):
                self.optimizer_.state.update(before.state)

    def trim_for_prediction(self) -> None:
        """Drop all that only training needs, as in skorch; predictions stay what they were."""
        if self.predict_nonlinearity == "auto":  # it is read off the criterion, which goes
            self.predict_nonlinearity = self._get_predict_nonlinearity()
        super().trim_for_prediction()

    def load_params(self, *args: Any, **kwargs: Any) -> None:
        """Load parameters, optimizer state and history saved by `save_params`, as in skorch."""
        asked = vars(self)["device"]
        super().load_params(*args, **kwargs)
        self._remember_device(asked)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in super().__getstate__().items() if name not in _WHILE_TRAINING}

    def __setstate__(self, state: dict[str, Any]) -> None:
        asked, fitted = state["device"], "device_" in state
        there, here = {name: value for name, value in state.items() if name != "device_"}, _device_here(asked)
        if _is_cuda(here) and not torch.cuda.is_available():
            warn(f"A net that was on device {str(asked)!r} is on the CPU now: there is no CUDA device.", DeviceWarning)
            here = "cpu"
        super().__setstate__({**there, "device": here})
        if fitted:
            self._remember_device(asked)
        self.__dict__["device"] = asked

    def _remember_device(self, asked: Any) -> None:
        """Note the device in use, where loading may have put the net, beside the one that was asked for."""
        self.device_ = self.device
        self.__dict__["device"] = asked


def _is_auto(device: Any) -> bool:
    return isinstance(device, str) and device == "auto"


def _is_cuda(device: Any) -> bool:
    return device is not None and torch.device(device).type == "cuda"


def _device_here(asked: Any) -> Any:
    """Return the device that a net from another machine is loaded to, if there is CUDA at all."""
    if _is_auto(asked):
        return best_device()
    if _is_cuda(asked) and (torch.device(asked).index or 0) >= torch.cuda.device_count() > 0:
        return "cuda"
    return asked


def _is_option(name: str) -> bool:
    """Say whether a parameter is the optimizer's, for all its groups; skorch names a single one by its number.

    >>> [_is_option(name) for name in ("lr", "optimizer__momentum", "optimizer__param_groups__0__lr", "optimizer")]
    [True, True, False, False]
    """
    return name == "lr" or (name.startswith("optimizer__") and "__" not in name.removeprefix("optimizer__"))


def _random_streams(random_state: Any) -> tuple[RandomStream | None, torch.Generator | None]:
    """Return the stream of a training and that of its batch order; none and none without a seed."""
    if random_state is None:
        return None, None
    seed, order = check_random_state(random_state).randint(2**31 - 1, size=2)
    return RandomStream(int(seed)), torch.Generator().manual_seed(int(order))


def _check_multipliers(groups: list[dict[str, Any]]) -> None:
    for group in groups:
        multiplier = group.get("lr_multiplier", 1)
        if isinstance(multiplier, bool) or not isinstance(multiplier, int | float) or not 0 <= multiplier < math.inf:
            raise ValueError(must_be("lr_multiplier of a parameter group", "a finite number >= 0", multiplier))
        if "lr_multiplier" in group and "lr" in group:
            raise ValueError(must_be("a parameter group", "given lr or lr_multiplier", "both", "Leave one out."))


def _scale_groups(groups: list[dict[str, Any]], lr: Any) -> None:
    """Give the groups that have an `lr_multiplier` their share of the net's lr."""
    for group in groups:
        if "lr_multiplier" in group:
            group["lr"] = lr * group["lr_multiplier"]
