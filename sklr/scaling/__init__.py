"""Rules that transfer the learning rate to another batch size, width or depth, with formula, paper and preconditions.

Nothing here trains. Rules that are known to hold return every hyper-parameter that they change; rough rules return the
range of a new search. `sklr.transfer` verifies the rules on your own data.
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
