"""Does a rule of `sklr.scaling` hold here? What trains to find out: small sweeps, a few steps, or no step at all."""

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
