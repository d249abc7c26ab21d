"""Plots, one file each: a function that returns the data of a plot, and one that draws them.

matplotlib is imported only when a plot is drawn. The functions return the axes, labelled with units, and never call
`show`.
"""

from sklr.plotting._coordinate_check import (
    CoordinateCheckData,
    coordinate_check_data,
    plot_coordinate_check,
)
from sklr.plotting._lr_curve import LRCurveData, LRCurveDisplay, lr_curve_data, plot_lr_curve
from sklr.plotting._net_curves import NetCurvesData, net_curves_data
from sklr.plotting._params import ParamPanel, ParamsData, params_data, plot_params
from sklr.plotting._range_test import RangeTestData, plot_range_test, range_test_data
from sklr.plotting._rounds import RoundsData, plot_rounds, rounds_data
from sklr.plotting._schedule import ScheduleData, plot_schedule, schedule_data
from sklr.plotting._training import (
    BestEpochsData,
    TrainingCurvesData,
    best_epochs_data,
    plot_best_epochs,
    plot_training_curves,
    training_curves_data,
)

__all__ = [
    "BestEpochsData",
    "CoordinateCheckData",
    "LRCurveData",
    "LRCurveDisplay",
    "NetCurvesData",
    "ParamPanel",
    "ParamsData",
    "RangeTestData",
    "RoundsData",
    "ScheduleData",
    "TrainingCurvesData",
    "best_epochs_data",
    "coordinate_check_data",
    "lr_curve_data",
    "net_curves_data",
    "params_data",
    "plot_best_epochs",
    "plot_coordinate_check",
    "plot_lr_curve",
    "plot_params",
    "plot_range_test",
    "plot_rounds",
    "plot_schedule",
    "plot_training_curves",
    "range_test_data",
    "rounds_data",
    "schedule_data",
    "training_curves_data",
]
