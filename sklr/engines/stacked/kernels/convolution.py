"""Convolutions of many runs on the CPU, with channels padded to a number for which there is a fast kernel."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad
from torch.overrides import TorchFunctionMode

BLOCK = 8  # float32 numbers in an AVX2 register, and the channels of a block in oneDNN's layouts
FEWEST = 5  # input channels; with one to four, padding costs more than it saves


class PaddedConvolutions(TorchFunctionMode):
    """Within this mode, `conv2d` pads input and output channels with zeros to multiples of 8.

    `vmap` computes the convolutions of all runs as one with a group for each run. oneDNN has fast kernels only for
    groups of 8, 16, ... channels: 24 groups from 6 to 16 channels take 200 ms forwards and backwards, from 8 to 16 they
    take 85 ms, and 24 single convolutions 79 ms (5 x 5 on 14 x 14 pixels, 64 rows, AVX2, one thread). A single
    convolution is padded by oneDNN itself. Zeros change no result.

    >>> x, layer = torch.rand(2, 6, 9, 9), nn.Conv2d(6, 10, 3)
    >>> expected = layer(x)
    >>> with PaddedConvolutions():
    ...     torch.allclose(layer(x), expected, atol=1e-6)
    True
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Replace `conv2d`, and nothing else."""
        return (_padded if func is torch.conv2d else func)(*args, **(kwargs or {}))


def _padded(input: Tensor, weight: Tensor, bias: Tensor | None = None, *args: Any, **kwargs: Any) -> Tensor:
    """Compute `conv2d`; the arguments have its names, because they may be passed by keyword."""
    n_out, n_in = weight.shape[:2]
    if input.shape[-3] != n_in or not _gains(n_in, n_out):  # several groups in the module's own convolution: left alone
        return torch.conv2d(input, weight, bias, *args, **kwargs)
    more_in, more_out = -n_in % BLOCK, -n_out % BLOCK
    input, weight = pad(input, (0, 0, 0, 0, 0, more_in)), pad(weight, (0, 0, 0, 0, 0, more_in, 0, more_out))
    bias = None if bias is None else pad(bias, (0, more_out))
    output = torch.conv2d(input, weight, bias, *args, **kwargs)
    # a copy, not a view: with batches of one row, `vmap` does not notice the gaps of a view, and group_norm fails
    return pad(output, (0, 0, 0, 0, 0, -more_out)) if more_out else output


def _gains(n_in: int, n_out: int) -> bool:
    return n_in >= FEWEST and bool(n_in % BLOCK or n_out % BLOCK)


def gains_by_padding(module: nn.Module) -> bool:
    """Return whether a module has a convolution, on the CPU and in float32, that is faster with padded channels."""
    return torch.backends.mkldnn.is_available() and any(
        isinstance(layer, nn.Conv2d)
        and layer.weight.device.type == "cpu"
        and layer.weight.dtype == torch.float32
        and layer.groups == 1
        and _gains(layer.in_channels, layer.out_channels)
        for layer in module.modules()
    )
