"""A descriptor that hides fitted attributes of skorch's nets from scikit-learn."""

from __future__ import annotations

from typing import Any


class Hidden:
    """A fitted attribute that skorch sets in `__init__`, stored under a private name.

    scikit-learn expects an estimator to have no fitted attributes before `fit`.
    """

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
