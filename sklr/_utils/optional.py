"""Optional dependencies: imported where they are used, with one helpful error if they are missing."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType


def require(module: str, *, extra: str) -> ModuleType:
    """Import a package that is not among sklr's own requirements.

    Parameters
    ----------
    module : str
        The module to import, such as "matplotlib.pyplot".
    extra : str
        The extra of sklr that installs it, as in ``pip install 'sklr[plot]'``.

    Raises
    ------
    ImportError
        If the package is not installed; the message has the command that installs it.

    Examples
    --------
    >>> require("math", extra="plot").pi > 3
    True
    >>> require("no_such_package", extra="plot")
    Traceback (most recent call last):
    ...
    ImportError: no_such_package must be installed for this, got No module named 'no_such_package'.
    Install it with: pip install 'sklr[plot]'
    """
    try:
        return import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        raise ImportError(
            f"{package} must be installed for this, got {error}. Install it with: pip install 'sklr[{extra}]'",
            name=package,
        ) from error
