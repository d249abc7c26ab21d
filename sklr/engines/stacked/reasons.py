"""Why candidates were trained one by one, in words: each reason with the candidates it concerns, if not all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from reprlib import Repr
from typing import Any

from sklr._utils.warnings import warn
from sklr.exceptions import StackFallbackWarning

MAX_LISTED = 2

SHORT = Repr()
SHORT.maxdict, SHORT.maxstring, SHORT.maxother = 8, 60, 60


def describe(reasons: Mapping[int, Sequence[str]], candidates: Sequence[dict]) -> list[str]:
    """Return each reason once.

    Parameters
    ----------
    reasons : mapping
        From the number of a candidate to its reasons.
    candidates : sequence of dict
        All of them, those without a reason too.

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
    """Say which candidates these are: by what they alone have in common, or by listing the first ones."""
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
    """Return the reason of a candidate whose stack met with an error, given in words."""
    return f"training in a stack raised {error}"


def warn_of_fallback(error: str, concerned: str) -> None:
    """Warn that an error in mid-training makes a stack's runs be trained one by one."""
    warn(
        f"Training in a stack raised {error}. So {concerned} will be trained one by one from the start, which takes "
        "longer. engine='sequential' trains that way from the beginning.",
        StackFallbackWarning,
    )
