"""The learning-rate range test: raise the learning rate until training breaks, and read the curve."""

from sklr.range_test import _find as _find  # gives the nets their method `lr_find`
from sklr.range_test._result import RangeTest
from sklr.range_test._run import lr_range_test

__all__ = ["RangeTest", "lr_range_test"]
