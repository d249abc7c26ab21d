"""Engines train every candidate in every cell; `pick_engine` chooses one and says why."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from sklr._utils.validation import must_be, unknown_name
from sklr.engines.base import Engine
from sklr.engines.sequential.engine import SequentialEngine
from sklr.engines.stacked.engine import StackedEngine
from sklr.exceptions import EngineError
from sklr.experiment.experiment import Experiment
from sklr.experiment.wrappers import trains_nets

__all__ = ["Engine", "SequentialEngine", "StackedEngine", "check_engine", "pick_engine", "trains_nets"]

ENGINES: dict[str, type[Engine]] = {"stacked": StackedEngine, "sequential": SequentialEngine}  # the faster first


def check_engine(engine: str | Engine) -> None:
    """Raise a ValueError unless `engine` is ``"auto"``, the name of an engine, or an engine.

    >>> check_engine("stakced")
    Traceback (most recent call last):
    ValueError: engine must be one of 'auto', 'stacked', 'sequential', got 'stakced'. Did you mean 'stacked'?
    """
    known = ("auto", *ENGINES)
    if isinstance(engine, str) and engine not in known:
        raise unknown_name("engine", engine, known)
    if not isinstance(engine, Engine | str):
        rule = f"one of {', '.join(map(repr, known))} or an Engine"
        raise ValueError(must_be("engine", rule, engine, "Leave it out for 'auto'."))


def pick_engine(
    engine: str | Engine, experiment: Experiment, candidates: Sequence[dict]
) -> tuple[Engine, dict[int, list[str]]]:
    """Return the engine that will train these candidates, and the reasons why a faster one cannot, per candidate.

    The reasons are keyed by the candidate's number. With ``"auto"`` a faster engine that can train only some of the
    candidates is chosen as well: it leaves the others to the sequential engine.
    """
    if isinstance(engine, Engine) or engine != "auto":
        chosen = engine if isinstance(engine, Engine) else ENGINES[engine]()
        reasons = chosen.unsupported(experiment, candidates)
        if reasons:
            raise EngineError(
                f"engine={chosen.name!r} cannot train these candidates: {'; '.join(reasons)}. "
                "Use engine='sequential', or engine='auto' to have one chosen."
            )
        return chosen, {}
    passed_over: dict[int, list[str]] = {}
    for kind in ENGINES.values():
        chosen = kind()
        refused = chosen.refusals(experiment, candidates)
        passed_over |= {i: [*passed_over.get(i, []), *reasons] for i, reasons in refused.items()}
        if len(refused) < len(candidates) or not candidates:
            return chosen, passed_over
    raise AssertionError("the sequential engine trains everything")


def engine_names(names: Iterable[str]) -> str:
    """Return the name of the engine, or engines, that trained candidates.

    >>> engine_names(["sequential", "stacked", "sequential"])
    'stacked and sequential'
    """
    return " and ".join(sorted(dict.fromkeys(names), key=lambda name: (name == SequentialEngine.name, name)))
