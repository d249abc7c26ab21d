"""From the learning rate of one size to that of another: pure rules with their formula, paper and precondition.

Nothing here trains. Rules that are known to hold return every hyper-parameter they change; those that are rough
return the range of a new search. `sklr.transfer` checks them on your own data.
"""

from sklr.scaling._batch import Transfer, transfer_lr
from sklr.scaling._center import SearchCenter, suggest_center
from sklr.scaling._decay import adamw_timescale, adamw_weight_decay
from sklr.scaling._depth import transfer_lr_depth
from sklr.scaling._mup import MupGroups, MupParam, ScaledInit, mup_param_groups
from sklr.scaling._noise import NoiseScale, noise_scale

__all__ = [
    "MupGroups",
    "MupParam",
    "NoiseScale",
    "ScaledInit",
    "SearchCenter",
    "Transfer",
    "adamw_timescale",
    "adamw_weight_decay",
    "mup_param_groups",
    "noise_scale",
    "suggest_center",
    "transfer_lr",
    "transfer_lr_depth",
]
