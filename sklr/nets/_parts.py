"""The components of a net: its parameters, device and random streams, and its module, criterion and optimizer."""

from __future__ import annotations

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
from sklr.callbacks._clipping import percentile_of
from sklr.callbacks._net_lr import group_options
from sklr.nets._data import float_dtype
from sklr.nets._groups import check_multipliers, is_option, scale_groups
from sklr.nets._hidden import Hidden
from sklr.nets._instances import check_required, copied, counterparts, has_hooks, wanted_widths
from sklr.nets._mistakes import check_components, check_training, unexpected_argument, with_weights
from sklr.schedules import resolve_schedule

_SCHEDULE_PARAMS = ("schedule", "warmup_epochs", "schedule_epochs")
_COMPONENTS = ("module", "criterion", "optimizer")  # skorch adds these to `prefixes_` when it makes them
_WHILE_TRAINING = (  # state of a training in progress, which copies and pickles of the net leave out
    "_callback_tasks",
    "_sample_weight",
    "_batch_weight",
    "_by_number",
    "_callback_fit_ctx",
    "_skl_callbacks_to_teardown",
    "get_split_datasets",  # replaced on the instance by the sequential engine, which pauses between epochs
)


class NetParts(NeuralNet):
    """A skorch net with components given by name, inferred sizes and device, and reproducible random streams."""

    history_, initialized_, virtual_params_ = Hidden(), Hidden(), Hidden()

    predict_nonlinearity: Any
    _random_stream: RandomStream | None = None  # initial weights, dropout and everything else that a training draws
    _batch_order: torch.Generator | None = None  # separate, so that the batch order can be drawn without the rest
    _widths: dict[str, int] = {}  # noqa: RUF012 - replaced, never mutated
    _new_groups = False  # whether optimizer__param_groups was set after the optimizer was created

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
        """Return the context manager of this training's random stream; entered again, the stream continues."""
        return nullcontext() if self._random_stream is None else self._random_stream

    @property
    def _default_callbacks(self) -> list[tuple[str, Any]]:
        schedule = LRSchedule(self.schedule, self.warmup_epochs, self.schedule_epochs)
        clipping = GradientClipping(self.clip)
        return [("lr_schedule", schedule), ("gradient_clipping", clipping), *super()._default_callbacks]

    def check_training_readiness(self) -> None:
        """Check what skorch checks, and the parameters that no component of the net validates itself."""
        super().check_training_readiness()
        self.check_names()
        check_device(vars(self)["device"])
        resolve_schedule(self.schedule, self.warmup_epochs)
        check_components(self)
        check_training(self)
        percentile_of(self.clip)
        check_count("accumulate_steps", self.accumulate_steps)
        if self.accumulate_steps > 1 and self.rows_at_once(0) is None:
            advice = (
                "It is the number of rows per accumulated batch, which a batch sampler or -1 (all rows) leaves open."
            )
            raise ValueError(must_be("batch_size", "at least 1 for accumulate_steps", self.batch_size, advice))

    def rows_at_once(self, epoch: int) -> int | None:
        """Return how many rows one forward pass has in an epoch, counted from 0; None if that is unknown.

        This is the batch size, as increased by a `BatchSizeSchedule` if there is one; an optimizer step uses
        `accumulate_steps` times as many rows.
        """
        params = super().get_params_for("iterator_train")
        size = params.get("batch_size", self.batch_size)
        if "batch_sampler" in params or size == -1:
            return None
        schedule = self._batch_size_schedule()
        return size if schedule is None else schedule.batch_size(size, epoch)

    def rows_in_step(self, epoch: int) -> int | None:
        """Return how many rows one optimizer step has in an epoch, counted from 0; None if that is unknown."""
        rows = self.rows_at_once(epoch)
        return None if rows is None else rows * self.accumulate_steps

    @property
    def batches_grow(self) -> bool:
        """Whether the batch size may change from epoch to epoch."""
        return self._batch_size_schedule() is not None

    def _batch_size_schedule(self) -> BatchSizeSchedule | None:
        callbacks = (callback for _, callback in getattr(self, "callbacks_", []))
        return next((callback for callback in callbacks if isinstance(callback, BatchSizeSchedule)), None)

    def initialize(self) -> NetParts:
        """Create module, criterion, optimizer and callbacks, and start the random streams."""
        asked = vars(self)["device"]
        self.device_ = best_device() if _is_auto(asked) else asked
        if _is_cuda(self.device_):  # `RandomStream` replaces CUDA's generators only once CUDA is initialized
            torch.cuda.init()
        self._random_stream, self._batch_order = _random_streams(self.random_state)
        with self.random_stream():
            return super().initialize()

    def get_params_for(self, prefix: str) -> dict[str, Any]:
        """Return the parameters of a component of the net; a DataLoader also gets a random generator."""
        params = super().get_params_for(prefix)
        if prefix == "criterion" and params:
            params = with_weights(resolve_criterion(self.criterion), params, self._float_dtype())
        # a DataLoader draws a seed even without shuffling; predictions must not advance the generator of the training
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

    def _float_dtype(self) -> torch.dtype:
        """Return the dtype of the module's outputs, as far as it is known: that of its parameters."""
        module = getattr(self, "module_", None)
        return (None if module is None else float_dtype(module)) or torch.get_default_dtype()

    def check_names(self) -> None:
        """Raise a ValueError for a parameter that no net has, with the name that may be meant.

        A subclass may create components of its own, whose names are known only once it is initialized.
        """
        if self.initialized_ or type(self).__module__.startswith("sklr."):
            prefixes = (*_COMPONENTS, *self.prefixes_)
            for name in sorted(self._params_to_validate):
                if not name.endswith("_") and not name.startswith(prefixes):
                    raise unexpected_argument(self, name)

    def _validate_params(self) -> None:
        self.check_names()
        super()._validate_params()

    def initialized_instance(self, instance_or_cls: Any, kwargs: dict[str, Any]) -> Any:
        """Return a module or criterion made from a class, a name or an instance, with inferred widths as arguments.

        An instance is copied, so that the user's module is never trained and every training starts from its weights.
        """
        is_module = instance_or_cls is self.module
        known = {} if is_module else counterparts(self.module, getattr(self, "module_", None))
        kwargs = {name: known.get(id(value), value) for name, value in kwargs.items()}
        if isinstance(instance_or_cls, torch.nn.Module):
            return super().initialized_instance(instance_or_cls, kwargs) if kwargs else copied(instance_or_cls, known)
        if not is_module:
            return super().initialized_instance(resolve_criterion(instance_or_cls), kwargs)
        kwargs = {**wanted_widths(self.module, self._widths), **kwargs}
        check_required(instance_or_cls, kwargs)
        made = super().initialized_instance(instance_or_cls, kwargs)
        if not isinstance(made, torch.nn.Module):
            raise TypeError(must_be("what module= makes", "a torch.nn.Module", type(made).__name__))
        return made

    def initialize_optimizer(self, *args: Any, **kwargs: Any) -> NetParts:
        """Create the optimizer from its class or name."""
        named = self.get_all_learnable_params()
        args, kwargs = self.get_params_for_optimizer("optimizer", named)
        self.optimizer_ = resolve_optimizer(self.optimizer)(*args, **kwargs)
        self._new_groups = False
        return self

    def get_params_for_optimizer(self, prefix: str, named_parameters: Any) -> tuple[Any, dict[str, Any]]:
        """Return the optimizer's arguments, as in skorch; an `lr_multiplier` makes a group's lr relative to the net's.

        A group's own `lr`, in contrast, does not change with the net's lr, and so is not changed by a search.
        """
        args, kwargs = super().get_params_for_optimizer(prefix, named_parameters)
        check_multipliers(args[0])
        scale_groups(args[0], kwargs["lr"])
        return args, kwargs

    @property
    def device(self) -> Any:
        """The device in use, which may differ from the parameter if that is "auto" or not available here."""
        return vars(self).get("device_", vars(self)["device"])

    @device.setter
    def device(self, value: Any) -> None:
        self.__dict__["device"] = value
        self.__dict__.pop("device_", None)

    def _get_param_names(self) -> list[str]:
        return [name for name in super()._get_param_names() if not name.startswith("_")]

    def __sklearn_clone__(self) -> NetParts:
        """Return a clone, as `sklearn.base.clone` does, but keep the hooks on the parameters of module instances."""
        own = super().__sklearn_clone__()
        for name, value in vars(self).items():
            if isinstance(value, torch.nn.Module) and name in vars(own) and has_hooks(value):
                vars(own)[name] = copied(value, {})
        return own

    def get_params(self, deep: bool = True, **kwargs: Any) -> dict[str, Any]:
        """Return the parameters as they were given, including those of components if `deep`."""
        return {**super().get_params(deep=deep, **kwargs), "device": vars(self)["device"]}

    def set_params(self, **params: Any) -> NetParts:
        """Set parameters; on a fitted net, those of lr, schedule and optimizer take effect immediately.

        Options that a parameter group sets itself, such as its lr, are kept. New `optimizer__param_groups` take effect
        when the training continues.
        """
        if not self.initialized_ and "callbacks" in params:  # skorch would initialize, and so validate, them here
            self.callbacks = params.pop("callbacks")
        options = {name: params.pop(name) for name in list(params) if self.initialized_ and is_option(name)}
        self.__dict__.update(options)  # skorch would only set them on the optimizer, and lose them at the next fit
        # new module parameters make skorch draw new weights: use the net's seed, and not the global generators
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
        """Set new options on the optimizer's groups, except those that a group sets itself."""
        self._new_groups |= "optimizer__param_groups" in options
        if not options or self._new_groups or getattr(self, "optimizer_", None) is None:
            return  # with new groups, the optimizer is created again when the training continues
        new = {name.removeprefix("optimizer__"): value for name, value in options.items()}
        lr, is_new = self.get_params_for("optimizer").get("lr", self.lr), new.pop("lr", None) is not None
        for group, own in zip(self.optimizer_.param_groups, group_options(self), strict=True):
            group.update({name: value for name, value in new.items() if name not in own})
            if is_new and ("lr" not in own or "lr_multiplier" in own):
                group["lr"] = lr * own["lr_multiplier"] if "lr_multiplier" in own else lr
                group.pop("scheduled_lr", None)  # so that it counts as a new peak even if a schedule had set this lr

    def _take_new_groups(self) -> None:
        """Create the optimizer again if its parameter groups have changed; the state of each parameter is kept."""
        if self._new_groups:
            before = self.optimizer_
            self._initialize_optimizer()
            if type(self.optimizer_) is type(before):
                self.optimizer_.state.update(before.state)

    def trim_for_prediction(self) -> None:
        """Drop everything that only training needs, as in skorch; predictions do not change."""
        if self.predict_nonlinearity == "auto":  # "auto" is resolved from the criterion, which is dropped
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
            warn(f"The net was on device {str(asked)!r} and is loaded to the CPU: no CUDA device found.", DeviceWarning)
            here = "cpu"
        super().__setstate__({**there, "device": here})
        if fitted:
            self._remember_device(asked)
        self.__dict__["device"] = asked

    def _remember_device(self, asked: Any) -> None:
        """Store the device in use, to which loading has moved the net, separately from the one asked for."""
        self.device_ = self.device
        self.__dict__["device"] = asked


def _is_auto(device: Any) -> bool:
    return isinstance(device, str) and device == "auto"


def _is_cuda(device: Any) -> bool:
    return device is not None and torch.device(device).type == "cuda"


def _device_here(asked: Any) -> Any:
    """Return the device to load a pickled net to, if CUDA is available; another CUDA device if its own is missing."""
    if _is_auto(asked):
        return best_device()
    if _is_cuda(asked) and (torch.device(asked).index or 0) >= torch.cuda.device_count() > 0:
        return "cuda"
    return asked


def _random_streams(random_state: Any) -> tuple[RandomStream | None, torch.Generator | None]:
    """Return the random stream of a training and the generator of its batch order; (None, None) without a seed."""
    if random_state is None:
        return None, None
    seed, order = check_random_state(random_state).randint(2**31 - 1, size=2)
    return RandomStream(int(seed)), torch.Generator().manual_seed(int(order))
