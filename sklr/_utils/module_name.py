"""The name by which a module can be imported, whichever way it has come into this process."""

from __future__ import annotations

import sys
from functools import cache
from pathlib import Path

SCRIPTS = ("__main__", "__mp_main__")  # a script that was started, here and in a process that it has spawned


def importable(module: str) -> str:
    """Return a module's name as another script would import it: that of its file, and of the packages around it.

    So ``__main__`` of ``python job.py`` is ``job``; a notebook's, which has no file, stays ``__main__``.

    >>> importable("json.decoder"), importable("no such module")
    ('json.decoder', 'no such module')
    """
    file = getattr(sys.modules.get(module), "__file__", None)
    return _of_file(file) if isinstance(file, str) else module


def without_main(text: str) -> str:
    """Return a text, such as the repr of a class, with the importable name of the script in it."""
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
