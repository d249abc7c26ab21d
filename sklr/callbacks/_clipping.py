"""A callback that clips gradients at a fixed norm, or at a percentile of the norms so far."""

from __future__ import annotations

import re
from bisect import insort
from collections.abc import Sequence
from numbers import Real
from typing import Any

import numpy as np
from skorch.callbacks import GradientNormClipping
from torch.nn.utils import clip_grad_norm_

from sklr._utils.validation import check_count, must_be


class GradientClipping(GradientNormClipping):
    """Clip the gradient norm at a number or at a percentile of the norms so far, and record the unclipped norms.

    With ``clip="p90"`` a gradient whose norm is above the 90th percentile of those of earlier steps is scaled down to
    that percentile: the threshold adapts to the scale of the loss. sklr's nets have it as their parameter `clip`; as a
    callback it works for any skorch net.

    Parameters
    ----------
    clip : float or str, optional
        The maximum norm (above 0; ``inf`` only records the norms), or a percentile such as "p90" or "p99.5". None
        disables the callback.
    startup_steps : int, default=20
        Number of first steps that are recorded but not clipped if `clip` is a percentile.
    norm_type : float, default=2
        The order of the norm, computed over all parameters as one vector; ``inf`` is the maximum norm.

    Raises
    ------
    ValueError
        When training begins, if a parameter is invalid.

    Notes
    -----
    The history gets `grad_norm`, the unclipped norm, per batch and its median per epoch, and `clipped`, per epoch the
    share of steps that were clipped. If more than half of them are, the lr is too high, and clipping only hides it
    (tuning playbook, "training instability").

    The percentile is that of all finite norms of earlier steps; Seetharaman et al. 2020 (arXiv 2007.14469, section 3)
    also include the current one. Norms decrease as a net learns, so few steps are clipped late in a long training.
    Norms are read from the history, so a training continued by `partial_fit` or from a checkpoint is clipped as if it
    had not been interrupted.

    Stacked training clips every run separately, by the norms of its own gradients.

    Examples
    --------
    >>> import numpy as np
    >>> from sklr import MLP, NeuralNetRegressor
    >>> X = np.arange(8.0)[:, None]
    >>> net = NeuralNetRegressor(MLP, module__hidden=(), lr=0.01, clip=1.0, max_epochs=3, random_state=0).fit(X, X)
    >>> [round(norm, 2) for norm in net.history_[:, "grad_norm"]], net.history_[:, "clipped"]
    ([41.01, 40.65, 40.28], [1.0, 1.0, 1.0])
    >>> net.set_params(clip="90%").fit(X, X)
    Traceback (most recent call last):
    ValueError: clip must be a number above 0 or a percentile between 0 and 100 such as 'p90', got '90%'.
    """

    def __init__(self, clip: float | str | None = None, startup_steps: int = 20, norm_type: float = 2):
        self.clip = clip
        self.startup_steps = startup_steps
        self.norm_type = norm_type

    @property
    def gradient_clip_value(self) -> float | None:
        """The fixed maximum norm, None if there is none; the name is that of skorch's callback."""
        return None if self.clip is None or isinstance(self.clip, str) else float(self.clip)

    @property
    def gradient_clip_norm_type(self) -> float:
        """The order of the norm; the name is that of skorch's callback."""
        return self.norm_type

    def on_train_begin(self, net: Any, X: Any = None, y: Any = None, **kwargs: Any) -> None:
        """Check the parameters, and load the norms of an earlier part of this training from the history."""
        check_count("startup_steps", self.startup_steps)
        self.percentile_ = percentile_of(self.clip)
        logged = [batch["grad_norm"] for row in net.history for batch in row["batches"] if "grad_norm" in batch]
        self.norms_ = sorted(norm for norm in logged if np.isfinite(norm))

    def on_grad_computed(self, net: Any, named_parameters: Any, **kwargs: Any) -> None:
        """Clip the gradient."""
        if self.clip is None:
            return
        self.threshold_ = self._threshold()
        parameters = [p for _, p in named_parameters]
        self.norm_ = float(clip_grad_norm_(parameters, max_norm=self.threshold_, norm_type=self.norm_type))

    def repeat(self, net: Any, norm: float) -> None:
        """Record a step that was taken elsewhere, such as in a stack, with the norm of its gradient."""
        self.threshold_, self.norm_ = self._threshold(), norm
        self.on_batch_end(net, training=True)

    def on_batch_end(self, net: Any, batch: Any = None, training: bool | None = None, **kwargs: Any) -> None:
        """Record the norm of the step's gradient."""
        if self.clip is None or not training:
            return
        net.history.record_batch("grad_norm", self.norm_)
        net.history.record_batch("clipped", self.norm_ > self.threshold_)
        if np.isfinite(self.norm_):
            insort(self.norms_, self.norm_)

    def on_epoch_end(self, net: Any, dataset_train: Any = None, dataset_valid: Any = None, **kwargs: Any) -> None:
        """Record the median norm of the epoch, and the share of its steps that were clipped."""
        steps = [batch for batch in net.history[-1]["batches"] if "grad_norm" in batch]
        if self.clip is not None and steps:
            net.history.record("grad_norm", float(np.median([step["grad_norm"] for step in steps])))
            net.history.record("clipped", float(np.mean([step["clipped"] for step in steps])))

    def _threshold(self) -> float:
        if self.percentile_ is None:
            assert self.gradient_clip_value is not None
            return self.gradient_clip_value
        if len(self.norms_) < self.startup_steps:
            return float("inf")
        return percentile_of_sorted(self.norms_, self.percentile_)


def percentile_of_sorted(values: Sequence[float], percentile: float) -> float:
    """Return a percentile of sorted numbers, as `numpy.percentile` does but without sorting them again.

    >>> percentile_of_sorted([1.0, 2.0, 4.0], 75), percentile_of_sorted([1.0, 2.0, 4.0], 100)
    (3.0, 4.0)
    """
    place = (len(values) - 1) * percentile / 100
    below = int(place)
    above = min(below + 1, len(values) - 1)
    return values[below] + (place - below) * (values[above] - values[below])


def percentile_of(clip: Any) -> float | None:
    """Return the percentile that `clip` names, None if it is a number or None; raise a ValueError if it is neither."""
    if isinstance(clip, str):
        found = re.fullmatch(r"p(\d+(?:\.\d+)?)", clip)
        if found and 0 < float(found[1]) < 100:
            return float(found[1])
    elif clip is None or (isinstance(clip, Real) and not isinstance(clip, bool) and float(clip) > 0):
        return None
    raise ValueError(must_be("clip", "a number above 0 or a percentile between 0 and 100 such as 'p90'", clip))
