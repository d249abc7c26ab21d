"""Find the learning rate of a PyTorch model through scikit-learn's own interface.

The searches are `LRGridSearchCV`, `BayesSearchCV` and `OptunaSearchCV`; they work on the nets defined here, on
skorch's own, on pipelines around them, and on any other scikit-learn estimator.
"""

from sklr.accelerate import stacked
from sklr.exceptions import (
    AllDivergedError,
    DivergedWarning,
    EdgeOfRangeWarning,
    EngineError,
    LostWorkerWarning,
    NoScoreError,
    NoScoreWarning,
    OutOfMemoryWarning,
    SettingsWarning,
    SklrError,
    StackFallbackWarning,
    StorageError,
    StorageWarning,
    StudyError,
    TransferWarning,
)
from sklr.modules import MLP
from sklr.nets import NeuralNetBinaryClassifier, NeuralNetClassifier, NeuralNetRegressor
from sklr.plotting import (
    LRCurveDisplay,
    plot_best_epochs,
    plot_coordinate_check,
    plot_lr_curve,
    plot_params,
    plot_range_test,
    plot_rounds,
    plot_schedule,
    plot_training_curves,
)
from sklr.range_test import RangeTest, lr_range_test
from sklr.recipes import MaxSteps, NeededWarmup, find_warmup, suggest_max_steps, weight_decay_by_layer
from sklr.replicate import Characterization, characterize, compare
from sklr.scaling import adamw_timescale, mup_param_groups, suggest_center, transfer_lr, transfer_lr_depth
from sklr.search import BayesSearchCV, LRGridSearchCV, LRPruner, OptunaSearchCV, load_search
from sklr.transfer import coordinate_check, gradient_noise_scale, verify_transfer

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
    "LRPruner",
    "LostWorkerWarning",
    "MaxSteps",
    "NeededWarmup",
    "NeuralNetBinaryClassifier",
    "NeuralNetClassifier",
    "NeuralNetRegressor",
    "NoScoreError",
    "NoScoreWarning",
    "OptunaSearchCV",
    "OutOfMemoryWarning",
    "RangeTest",
    "SettingsWarning",
    "SklrError",
    "StackFallbackWarning",
    "StorageError",
    "StorageWarning",
    "StudyError",
    "TransferWarning",
    "adamw_timescale",
    "characterize",
    "compare",
    "coordinate_check",
    "find_warmup",
    "gradient_noise_scale",
    "load_search",
    "lr_range_test",
    "mup_param_groups",
    "plot_best_epochs",
    "plot_coordinate_check",
    "plot_lr_curve",
    "plot_params",
    "plot_range_test",
    "plot_rounds",
    "plot_schedule",
    "plot_training_curves",
    "stacked",
    "suggest_center",
    "suggest_max_steps",
    "transfer_lr",
    "transfer_lr_depth",
    "verify_transfer",
    "weight_decay_by_layer",
]
