"""Find the learning rate of a PyTorch model through scikit-learn's own interface.

The searches are `LRGridSearchCV`, `BayesSearchCV` and `OptunaSearchCV`; they work on the nets defined here, on
skorch's own, on pipelines around them, and on any other scikit-learn estimator.
"""

from sklr.exceptions import (
    AllDivergedError,
    DivergedWarning,
    EdgeOfRangeWarning,
    EngineError,
    OutOfMemoryWarning,
    SklrError,
)
from sklr.modules import MLP
from sklr.nets import NeuralNetBinaryClassifier, NeuralNetClassifier, NeuralNetRegressor
from sklr.plotting import (
    LRCurveDisplay,
    plot_best_epochs,
    plot_lr_curve,
    plot_params,
    plot_rounds,
    plot_schedule,
    plot_training_curves,
)
from sklr.replicate import Characterization, characterize, compare
from sklr.search import BayesSearchCV, LRGridSearchCV, OptunaSearchCV

__version__ = "0.1.0.dev0"

__all__ = [
    "MLP",
    "AllDivergedError",
    "BayesSearchCV",
    "Characterization",
    "DivergedWarning",
    "EdgeOfRangeWarning",
    "EngineError",
    "LRCurveDisplay",
    "LRGridSearchCV",
    "NeuralNetBinaryClassifier",
    "NeuralNetClassifier",
    "NeuralNetRegressor",
    "OptunaSearchCV",
    "OutOfMemoryWarning",
    "SklrError",
    "characterize",
    "compare",
    "plot_best_epochs",
    "plot_lr_curve",
    "plot_params",
    "plot_rounds",
    "plot_schedule",
    "plot_training_curves",
]
