"""Recipes that prepare a search: how long to train, how much warmup, and weight decay by layer."""

from sklr.recipes._decay import weight_decay_by_layer
from sklr.recipes._max_steps import MaxSteps, suggest_max_steps
from sklr.recipes._warmup import NeededWarmup, find_warmup

__all__ = ["MaxSteps", "NeededWarmup", "find_warmup", "suggest_max_steps", "weight_decay_by_layer"]
