"""The coordinate check: a few steps at several widths show whether a model's parametrization is muP."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from sklearn.utils import check_random_state
from torch import nn

from sklr._utils.html import ShownAsText
from sklr._utils.names import resolve_criterion, resolve_optimizer
from sklr._utils.random import RandomStream
from sklr._utils.validation import check_count, check_flag, must_be
from sklr.scaling import mup_param_groups

TOLERANCE = 0.15  # of the slope; at finite width correct slopes deviate from 0 by up to 0.1


@dataclass(frozen=True, eq=False, repr=False)
class CoordinateCheck(ShownAsText):
    """The size of each layer's outputs, and how much they change in a few steps, at several widths.

    Parameters
    ----------
    widths : tuple of int
    modules : tuple of str
        Names of the layers, as in `module.named_modules()`.
    sizes : ndarray of shape (n_widths, n_seeds, n_steps + 1, n_modules)
        Mean absolute output before each step, and after the last one.
    changes : ndarray of the same shape
        Mean absolute difference from the output before the first step.
    mup : bool
        Whether muP was applied.
    tolerance : float
        Tolerance of the slopes.
    """

    widths: tuple[int, ...]
    modules: tuple[str, ...]
    sizes: np.ndarray
    changes: np.ndarray
    mup: bool
    tolerance: float = TOLERANCE

    @property
    def slopes(self) -> np.ndarray:
        """Slopes of log2 of the size against log2 of the width, shape (n_steps + 1, n_modules)."""
        return self._slopes(self.sizes)

    @property
    def change_slopes(self) -> np.ndarray:
        """Slopes of log2 of the change against log2 of the width after each step, shape (n_steps, n_modules)."""
        return self._slopes(self.changes[:, :, 1:])

    @property
    def passed(self) -> bool:
        """Whether every layer's outputs change equally much at all widths, within the tolerance."""
        return not self.failures

    @property
    def failures(self) -> tuple[str, ...]:
        """A sentence for each layer whose outputs change more, or less, in wider models."""
        return tuple(
            f"{name}: its outputs change {'more' if slope > 0 else 'less'} in wider models, as width^{slope:.2f}"
            for name, slope in zip(self.modules, self.change_slopes[-1], strict=True)
            if not abs(slope) <= self.tolerance  # NaN is a failure too: no change, or the training diverged
        )

    def _slopes(self, values: np.ndarray) -> np.ndarray:
        means = values.mean(axis=1)
        y = np.log2(np.where(np.isfinite(means) & (means > 0), means, np.nan))
        x = np.log2(self.widths) - np.log2(self.widths).mean()
        return np.tensordot(x, y, axes=1) / (x @ x)

    def conclusion(self) -> str:
        """Return the last line of the printed check: whether it passed."""
        return str(self).splitlines()[-1]

    def __str__(self) -> str:
        head = f"{'muP' if self.mup else 'standard'}, widths {', '.join(map(str, self.widths))}"
        rows = [
            f"  {name}: width^{slope:+.2f}" for name, slope in zip(self.modules, self.change_slopes[-1], strict=True)
        ]
        verdict = "passed" if self.passed else "failed"
        return "\n".join([f"{head}; change of outputs:", *rows, f"{verdict}, tolerance {self.tolerance:g}"])


def coordinate_check(
    make: Callable[[int], nn.Module],
    widths: Sequence[int],
    X: Any,
    y: Any,
    *,
    lr: float,
    optimizer: Any = "adam",
    mup: bool = True,
    criterion: Any = "cross_entropy",
    n_steps: int = 3,
    n_seeds: int = 5,
    tolerance: float = TOLERANCE,
    random_state: Any = None,
    **optimizer_params: Any,
) -> CoordinateCheck:
    """Train a few steps at several widths, and check that every layer's outputs change equally much at all of them.

    This is the defining property of muP: at every width each layer learns as much as it can without diverging (Yang et
    al. 2022, arXiv 2203.03466, appendix D.1). If the changes of a layer's outputs grow with the width, the best
    learning rate falls with it; if they shrink, a wide layer no longer learns.

    Parameters
    ----------
    make : callable
        Takes a width and returns a module, with initial weights drawn from torch's global generator.
    widths : sequence of int
        At least two, ascending; the first is that of the base model.
    X, y : array or Tensor of shape (n_rows, ...)
        One batch, in the form that module and criterion take. It is used for all steps.
    lr : float
        Peak learning rate of the base model; it should be large enough to change the outputs in a few steps.
    optimizer, criterion : str or class
    mup : bool, default=True
        Whether to apply muP. False shows the standard parametrization.
    n_steps : int, default=3
        Number of optimizer steps.
    n_seeds : int, default=5
        Number of initializations per width.
    tolerance : float, default=0.15
        Maximum deviation of a slope from 0.
    random_state : int, RandomState instance or None
        Determines the seeds of the initial weights.
    **optimizer_params
        As in `mup_param_groups`.

    Returns
    -------
    check : CoordinateCheck
        `passed` and `failures` have the result, and `sklr.plotting.plot_coordinate_check` plots it.

    Raises
    ------
    ValueError
        If an argument is invalid.

    Examples
    --------
    >>> from sklr.modules import MLP
    >>> X, y = torch.randn(64, 8, generator=torch.Generator().manual_seed(0)), torch.arange(64) % 4
    >>> def make(width):
    ...     return MLP(8, 4, hidden=(width, width))
    >>> for mup in (True, False):
    ...     print(coordinate_check(make, (64, 128, 256), X, y, lr=0.01, mup=mup, random_state=0).passed)
    True
    False
    """
    widths = tuple(check_count("each of widths", width) for width in widths)
    if len(widths) < 2 or list(widths) != sorted(set(widths)):
        raise ValueError(must_be("widths", "at least two, ascending", widths))
    check_flag("mup", mup)
    n_steps, n_seeds = check_count("n_steps", n_steps), check_count("n_seeds", n_seeds)
    seeds = check_random_state(random_state).randint(2**31 - 1, size=n_seeds)
    loss = resolve_criterion(criterion)()
    x, target = torch.as_tensor(X), torch.as_tensor(y)
    with RandomStream(0):  # only its shapes are used, but drawing weights must not advance the global generator
        base = make(widths[0]) if mup else None
    found: list[list[tuple[np.ndarray, np.ndarray]]] = []
    names: tuple[str, ...] = ()
    for width in widths:
        found.append([])
        for seed in seeds:
            with RandomStream(int(seed)):
                module = make(width)
                steps = _optimizer(module, base, lr, optimizer, optimizer_params)
                names, outputs = _train(module, steps, lambda out: loss(out, target), x, n_steps)
            found[-1].append(outputs)
    sizes, changes = np.moveaxis(np.array(found), 2, 0)
    return CoordinateCheck(widths, names, sizes, changes, mup, tolerance)


def _optimizer(
    module: nn.Module, base: nn.Module | None, lr: float, optimizer: Any, params: dict[str, Any]
) -> torch.optim.Optimizer:
    kind = resolve_optimizer(optimizer)
    if base is None:
        return kind(module.parameters(), lr=lr, **params)
    groups = mup_param_groups(module, base, lr, kind, **params)
    return kind(groups.torch_groups(groups.scale_init(module)), lr=lr, **params)


def _train(
    module: nn.Module, optimizer: torch.optim.Optimizer, loss: Callable[[Any], torch.Tensor], x: torch.Tensor, n: int
) -> tuple[tuple[str, ...], tuple[np.ndarray, np.ndarray]]:
    """Train `n` steps; return the layers' names, and sizes and changes of their outputs, each (n + 1, n_modules)."""
    layers = {name: layer for name, layer in module.named_modules() if next(layer.children(), None) is None}
    outputs: dict[str, torch.Tensor] = {}
    handles = [layer.register_forward_hook(_writer(outputs, name)) for name, layer in layers.items()]
    history = []
    for step in range(n + 1):
        value = loss(module(x))
        history.append(dict(outputs))
        if step < n:
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
    for handle in handles:
        handle.remove()
    names = tuple(name for name in layers if name in outputs)
    sizes = [[float(now[name].abs().mean()) for name in names] for now in history]
    changes = [[float((now[name] - history[0][name]).abs().mean()) for name in names] for now in history]
    return names, (np.array(sizes), np.array(changes))


def _writer(outputs: dict[str, torch.Tensor], name: str) -> Callable[..., None]:
    def write(layer: nn.Module, inputs: Any, output: Any) -> None:
        if isinstance(output, torch.Tensor):
            outputs[name] = output.detach().clone()

    return write
