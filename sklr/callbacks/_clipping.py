"""The callback that clips gradients at a fixed norm, or at a percentile of the norms met so far."""

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
    """Clip the gradient's norm at a number or at a percentile of the norms so far, and log the unclipped norms.

    With ``clip="p90"`` a step whose gradient is longer than 90 % of those before it is scaled back to that length:
    a threshold that finds itself, whatever the scale of the loss. The nets take it as their parameter `clip`; as a
    callback it serves any skorch net.

    Parameters
    ----------
    clip : float or str, optional
        The largest norm (above 0, ``inf`` only logs), or a percentile such as "p90" or "p99.5". None does nothing.
    startup_steps : int, default=20
        Steps that are logged but not clipped before there is a percentile; no matter for a number.
    norm_type : float, default=2
        The order of the norm, over all parameters as if they were one vector; ``inf`` is the largest entry.

    Raises
    ------
    ValueError
        When training begins, if a parameter is not what it must be.

    Notes
    -----
    History: `grad_norm`, unclipped, per batch and (the median) per epoch, and per epoch the share `clipped`. If more
    than half are clipped the lr is too high, and clipping only hides it (tuning playbook, "training instability").

    The percentile is of all finite norms of earlier steps (Seetharaman et al. 2020, arXiv 2007.14469, section 3, who
    count the present one too). Norms fall as a net learns, so late in a long training few steps are clipped. Norms
    are read from the history, so a training continued by `partial_fit` or from a checkpoint goes on exactly.

    Stacked trainings clip every run by itself, by the norms of its own gradients.

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
        """The fixed norm, None where there is none; what skorch's callback calls it."""
        return None if self.clip is None or isinstance(self.clip, str) else float(self.clip)

    @property
    def gradient_clip_norm_type(self) -> float:
        """The order of the norm."""
        return self.norm_type

    def on_train_begin(self, net: Any, X: Any = None, y: Any = None, **kwargs: Any) -> None:
        """Check the parameters, and take up the norms of an earlier part of this training."""
        check_count("startup_steps", self.startup_steps)
        self.percentile_ = percentile_of(self.clip)
        logged = [batch["grad_norm"] for row in net.history for batch in row["batches"] if "grad_norm" in batch]
        self.norms_ = sorted(norm for norm in logged if np.isfinite(norm))

    def on_grad_computed(self, net: Any, named_parameters: Any, **kwargs: Any) -> None:
        """Scale the gradient back if it is too long."""
        if self.clip is None:
            return
        self.threshold_ = self._threshold()
        parameters = [p for _, p in named_parameters]
        self.norm_ = float(clip_grad_norm_(parameters, max_norm=self.threshold_, norm_type=self.norm_type))

    def repeat(self, net: Any, norm: float) -> None:
        """Log a step that another training of this net has taken, whose gradient had this norm."""
        self.threshold_, self.norm_ = self._threshold(), norm
        self.on_batch_end(net, training=True)

    def on_batch_end(self, net: Any, batch: Any = None, training: bool | None = None, **kwargs: Any) -> None:
        """Log the step's norm."""
        if self.clip is None or not training:
            return
        net.history.record_batch("grad_norm", self.norm_)
        net.history.record_batch("clipped", self.norm_ > self.threshold_)
        if np.isfinite(self.norm_):
            insort(self.norms_, self.norm_)

    def on_epoch_end(self, net: Any, dataset_train: Any = None, dataset_valid: Any = None, **kwargs: Any) -> None:
        """Log the epoch's median norm, and the share of its steps that were clipped."""
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
    """Return the percentile of numbers in rising order, as `numpy.percentile` does but without sorting them again.

    >>> percentile_of_sorted([1.0, 2.0, 4.0], 75), percentile_of_sorted([1.0, 2.0, 4.0], 100)
    (3.0, 4.0)
    """
    place = (len(values) - 1) * percentile / 100
    below = int(place)
    above = min(below + 1, len(values) - 1)
    return values[below] + (place - below) * (values[above] - values[below])


def percentile_of(clip: Any) -> float | None:
    """Return the percentile that is meant, None for a number or nothing at all."""
    if isinstance(clip, str):
        found = re.fullmatch(r"p(\d+(?:\.\d+)?)", clip)
        if found and 0 < float(found[1]) < 100:
            return float(found[1])
    elif clip is None or (isinstance(clip, Real) and not isinstance(clip, bool) and float(clip) > 0):
        return None
    raise ValueError(must_be("clip", "a number above 0 or a percentile between 0 and 100 such as 'p90'", clip))
