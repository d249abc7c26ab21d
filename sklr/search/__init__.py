"""The three searches: `_base.py` has what they share, and a file for each has what it proposes."""

from sklr.search._base import BaseLRSearchCV
from sklr.search._bayes import BayesSearchCV
from sklr.search._grid import LRGridSearchCV
from sklr.search._load import load_search
from sklr.search._optuna import OptunaSearchCV
from sklr.search.pruning.pruners import LRPruner

__all__ = ["BaseLRSearchCV", "BayesSearchCV", "LRGridSearchCV", "LRPruner", "OptunaSearchCV", "load_search"]
