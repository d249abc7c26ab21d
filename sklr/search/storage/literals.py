"""Parameters of a search as text that gives them back: literals, distributions, dimensions and splitters.

Other objects are not written. Evaluating a text creates objects of the classes in `KINDS` only, because the text may
have been changed by anyone who can write to the storage.
"""

from __future__ import annotations

import ast
from typing import Any

import numpy as np
import optuna.distributions as od
import sklearn.model_selection as ms
import skopt.space as sk
from torch.utils._pytree import tree_leaves

from sklr.search.storage.describe import describe

SPLITTERS = (
    *(ms.KFold, ms.StratifiedKFold, ms.GroupKFold, ms.StratifiedGroupKFold, ms.RepeatedKFold, ms.TimeSeriesSplit),
    *(ms.RepeatedStratifiedKFold, ms.ShuffleSplit, ms.StratifiedShuffleSplit, ms.GroupShuffleSplit, ms.LeaveOneOut),
)
SPACES = (od.FloatDistribution, od.IntDistribution, od.CategoricalDistribution, sk.Real, sk.Integer, sk.Categorical)
MOST_ITEMS = 1000  # of a parameter: every search of a study writes its parameters
KINDS = {kind.__name__: kind for kind in (*SPLITTERS, *SPACES)}


def written(value: Any) -> str | None:
    """Return a text from which `evaluate` gives an equal value back, None if there is none, or only a long one.

    NumPy's numbers are written as Python's, and arrays as lists. Folds that are given as row numbers are not written.

    >>> written({"lr": np.geomspace(0.01, 1, 3)}), written(ms.KFold(3)), written(len)
    ("{'lr': [0.01, 0.1, 1.0]}", 'KFold(n_splits=3, random_state=None, shuffle=False)', None)
    """
    if _n_items(value) > MOST_ITEMS:
        return None
    try:
        value = _plain(value)
        text = repr(value)
        return text if describe(evaluate(text)) == describe(value) else None
    except (ValueError, TypeError, KeyError, SyntaxError, MemoryError, RecursionError):
        return None


def _n_items(value: Any) -> int:
    """Return how many values a structure has.

    >>> _n_items([(np.arange(3), "abc")] * 2), _n_items([np.arange(10**6)] * 9) > MOST_ITEMS
    (8, True)
    """
    return sum(leaf.size if isinstance(leaf, np.ndarray) else 1 for leaf in tree_leaves(value))


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    if type(value) is dict:
        return {name: _plain(item) for name, item in value.items()}
    return type(value)(map(_plain, value)) if type(value) in (list, tuple) else value


def evaluate(text: str) -> Any:
    """Return the value of a text that `written` returned.

    >>> evaluate("{'n': IntDistribution(low=1, high=4), 'sizes': [(8,), (16, 8)]}")["n"].high
    4
    """
    return _value(ast.parse(text, mode="eval").body)


def _value(node: ast.expr) -> Any:
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and not node.args:
        return KINDS[node.func.id](**{str(given.arg): _value(given.value) for given in node.keywords})
    if isinstance(node, ast.Name):
        return {"nan": float("nan"), "inf": float("inf")}[node.id]
    if isinstance(node, ast.Dict):
        return {_value(key): _value(item) for key, item in zip(node.keys, node.values, strict=True) if key is not None}
    if isinstance(node, ast.List | ast.Tuple):
        items = map(_value, node.elts)
        return list(items) if isinstance(node, ast.List) else tuple(items)
    return ast.literal_eval(node)
