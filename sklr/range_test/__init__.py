"""The learning-rate range test: increase the learning rate until training becomes unstable, and analyse the losses."""

from sklr.range_test import _find as _find  # adds the method `lr_find` to the nets
from sklr.range_test._result import RangeTest
from sklr.range_test._run import lr_range_test

__all__ = ["RangeTest", "lr_range_test"]
