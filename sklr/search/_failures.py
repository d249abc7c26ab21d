"""The warning or error about failed fits: the causes first, their tracebacks last."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from sklearn.exceptions import FitFailedWarning

from sklr._utils.errors import cause_of, short
from sklr._utils.warnings import warn

MOST_CAUSES = 5  # how many causes a message lists, the most frequent first


class Failure(NamedTuple):
    """One cause of failed fits: the exception, how many fits it ended, and the parameters of the first of them."""

    cause: str
    n_fits: int
    params: dict[str, Any]
    traceback: str


def failures(errors: Sequence[str | None], params: Sequence[dict[str, Any]]) -> list[Failure]:
    """Return the distinct causes, the most frequent first.

    Parameters
    ----------
    errors : sequence of str or None
        The traceback of every fit, None for one that succeeded.
    params : sequence of dict
        The candidate of every fit.
    """
    found: dict[str, Failure] = {}
    for error, candidate in zip(errors, params, strict=True):
        if error is not None:
            cause = cause_of(error)
            known = found.get(cause, Failure(cause, 0, candidate, error))
            found[cause] = known._replace(n_fits=known.n_fits + 1)
    return sorted(found.values(), key=lambda failure: -failure.n_fits)


def causes_text(found: Sequence[Failure]) -> str:
    """Return the text that follows "... fits failed": each cause with its number of fits and a candidate."""
    if len(found) == 1:
        return f": {found[0].cause}\nThe first of them has the parameters {short(repr(found[0].params))}."
    lines = [
        f"- {_fits(f.n_fits)}, the first of them with {short(repr(f.params))}: {f.cause}" for f in found[:MOST_CAUSES]
    ]
    more = [f"- and {len(found) - MOST_CAUSES} more"] if len(found) > MOST_CAUSES else []
    return "\n".join([f", with {len(found)} different errors:", *lines, *more])


def report_failures(errors: Sequence[str | None], params: Sequence[dict[str, Any]], error_score: Any) -> None:
    """Warn if some fits failed, as scikit-learn does.

    Raises
    ------
    ValueError
        If all fits failed.
    """
    found = failures(errors, params)
    if not found:
        return
    n_failed = sum(failure.n_fits for failure in found)
    if n_failed == len(errors):
        advice = "It is very likely that your model is misconfigured. error_score='raise' stops at the first error."
        raise ValueError(f"All the {_fits(n_failed)} failed{causes_text(found)}\n{advice}\n\n{_tracebacks(found)}")
    advice = (
        f"The score on these train-test partitions for these parameters will be set to {error_score}. "
        "If they are not expected to fail, set error_score='raise' to stop at the first error."
    )
    head = f"{_fits(n_failed)} failed out of a total of {len(errors)}"
    warn(f"{head}{causes_text(found)}\n{advice}\n\n{_tracebacks(found)}", FitFailedWarning)


def _tracebacks(found: Sequence[Failure]) -> str:
    rule = "-" * 80
    return "\n".join(
        f"{rule}\n{_fits(f.n_fits)} failed with the following error:\n{f.traceback}" for f in found[:MOST_CAUSES]
    )


def _fits(n: int) -> str:
    return f"{n} fit{'s' * (n != 1)}"
