"""The class of a callback, in any of the forms in which skorch's nets accept one."""

from __future__ import annotations

from typing import Any


def callback_class(callback: Any) -> type:
    """Return the class of a callback that is given as an instance, a class, or a pair of a name and one of these.

    >>> from skorch.callbacks import EarlyStopping
    >>> {callback_class(given).__name__ for given in (EarlyStopping, EarlyStopping(), ("stop", EarlyStopping()))}
    {'EarlyStopping'}
    """
    callback = callback[-1] if isinstance(callback, tuple) else callback
    return callback if isinstance(callback, type) else type(callback)
