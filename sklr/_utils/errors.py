"""The cause of an error, from its formatted traceback."""

from __future__ import annotations

from sklr._utils.validation import without_address

LONGEST = 500  # maximum characters of a cause or of a candidate's parameters


def cause_of(traceback: str) -> str:
    r"""Return type and message of the exception in a formatted traceback, on one line.

    >>> frame = '  File "net.py", line 3, in fit\n    raise ValueError(1)\n'
    >>> cause_of(f"Traceback (most recent call last):\n{frame}ValueError: lr is high.\nLower it.\n")
    'ValueError: lr is high. Lower it.'
    """
    lines = traceback.rpartition("Traceback (most recent call last):\n")[2].splitlines()
    said = next((i for i, line in enumerate(lines) if line[:1] not in (" ", "")), len(lines) - 1)
    name, _, rest = " ".join(" ".join(lines[said:]).split()).partition(":")
    return short(without_address(f"{name.rpartition('.')[2]}:{rest}" if rest else name))


def short(text: str) -> str:
    """Return a text, cut off after `LONGEST` characters."""
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 3]}..."
