"""Experiments that check the rules of `sklr.scaling` on a net and its data: sweeps, a few steps, or gradients alone."""

from sklr.transfer._coordinates import CoordinateCheck, coordinate_check
from sklr.transfer._exponent import Exponent, lr_exponent
from sklr.transfer._noise import gradient_noise_scale
from sklr.transfer._verify import Sweep, TransferCheck, verify_transfer

__all__ = [
    "CoordinateCheck",
    "Exponent",
    "Sweep",
    "TransferCheck",
    "coordinate_check",
    "gradient_noise_scale",
    "lr_exponent",
    "verify_transfer",
]
