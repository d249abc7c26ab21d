"""The messages that say why candidates are trained one by one: each reason with the candidates that it concerns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from reprlib import Repr
from typing import Any

from sklr._utils.warnings import warn
from sklr.exceptions import StackFallbackWarning

MAX_LISTED = 2

SHORT = Repr()  # keeps a message to a few lines whatever the parameters are
SHORT.maxdict, SHORT.maxstring, SHORT.maxother = 8, 60, 60


def describe(reasons: Mapping[int, Sequence[str]], candidates: Sequence[dict]) -> list[str]:
    """Return each reason once, with the candidates that it concerns unless these are all.

    Parameters
    ----------
    reasons : mapping
        From the number of a candidate to its reasons.
    candidates : sequence of dict
        All candidates, including those without a reason.

    Examples
    --------
    >>> candidates = [{"lr": lr, "module__rnn": rnn} for rnn in ("lstm", "tanh") for lr in (0.1, 0.2)]
    >>> describe({0: ["LSTM cannot be batched"], 1: ["LSTM cannot be batched"]}, candidates)
    ["LSTM cannot be batched (candidates with module__rnn='lstm')"]
    >>> describe({3: ["lr is too high"]}, candidates)
    ["lr is too high (candidate {'lr': 0.2, 'module__rnn': 'tanh'})"]
    >>> describe(dict.fromkeys(range(4), ["LSTM cannot be batched"]), candidates)
    ['LSTM cannot be batched']
    """
    concerned: dict[str, list[int]] = {}
    for number in sorted(reasons):
        for reason in dict.fromkeys(reasons[number]):
            concerned.setdefault(reason, []).append(number)
    return [
        reason if len(numbers) == len(candidates) else f"{reason} ({which(numbers, candidates)})"
        for reason, numbers in concerned.items()
    ]


def which(numbers: Sequence[int], candidates: Sequence[dict]) -> str:
    """Describe these candidates by the parameter values that only they share, or else list the first of them."""
    shown = [{(name, _shown(value)) for name, value in candidate.items()} for candidate in candidates]
    common = set.intersection(*(shown[i] for i in numbers))
    telling = [item for item in common if sum(item in items for items in shown) == len(numbers)]
    if telling and len(numbers) > 1:
        return f"candidates with {', '.join(f'{name}={value}' for name, value in sorted(telling))}"
    listed = ", ".join(_shown(candidates[i]) for i in numbers[:MAX_LISTED])
    more = f" and {len(numbers) - MAX_LISTED} more" if len(numbers) > MAX_LISTED else ""
    return f"candidate{'s' * (len(numbers) > 1)} {listed}{more}"


def _shown(value: Any) -> str:
    return " ".join(SHORT.repr(value).split())


def raised(error: str) -> str:
    """Return the reason of a candidate whose stack raised an error, given as `in_words` returns it."""
    return f"training in a stack raised {error}"


def warn_of_fallback(error: str, concerned: str) -> None:
    """Warn that the runs of a stack will be trained one by one because the stack raised an error."""
    warn(
        f"Training in a stack raised {error}. So {concerned} will be trained one by one, from the first epoch, which "
        "takes longer. With engine='sequential' no stack is tried.",
        StackFallbackWarning,
    )
