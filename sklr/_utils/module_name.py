"""The name under which a module can be imported, even if it runs as a script."""

from __future__ import annotations

import sys
from functools import cache
from pathlib import Path

SCRIPTS = ("__main__", "__mp_main__")  # the script's name in the main process, and in the processes it spawns


def importable(module: str) -> str:
    """Return a module's name as another script would import it, from its file and the packages that contain it.

    ``__main__`` of ``python job.py`` becomes ``job``; that of a notebook, which has no file, stays ``__main__``.

    >>> importable("json.decoder"), importable("no such module")
    ('json.decoder', 'no such module')
    """
    file = getattr(sys.modules.get(module), "__file__", None)
    return _of_file(file) if isinstance(file, str) else module


def without_main(text: str) -> str:
    """Replace ``__main__`` in a text, such as the `repr` of a class, by the importable name of the script."""
    for script in SCRIPTS:
        text = text.replace(f"{script}.", f"{importable(script)}.")
    return text


@cache
def _of_file(file: str) -> str:
    path = Path(file).absolute()
    names = [path.name.partition(".")[0]]
    while (path.parent / "__init__.py").exists():
        path = path.parent
        names.insert(0, path.name)
    return ".".join(names[:-1] if names[-1] == "__init__" and names[:-1] else names)
