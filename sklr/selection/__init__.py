"""From scores to a decision: the LR curve, the choice of a learning rate, and the comparison of two configurations.

Pure functions of arrays; nothing here trains.
"""

from sklr.selection.choice import Choice, choose, indistinguishable
from sklr.selection.comparison import Comparison, compare_scores
from sklr.selection.correction import corrected_score
from sklr.selection.curve import LRCurve, edge, lr_curve, max_stable_lr, paired_standard_error
from sklr.selection.repeats import SearchVariance, search_variance
from sklr.selection.variance import VarianceComponents, variance_components
from sklr.selection.verdict import verdict

__all__ = [
    "Choice",
    "Comparison",
    "LRCurve",
    "SearchVariance",
    "VarianceComponents",
    "choose",
    "compare_scores",
    "corrected_score",
    "edge",
    "indistinguishable",
    "lr_curve",
    "max_stable_lr",
    "paired_standard_error",
    "search_variance",
    "variance_components",
    "verdict",
]
