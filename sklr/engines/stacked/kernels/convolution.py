"""Convolution and pooling on the CPU for many runs on the same pictures, and which modules had better not be mapped.

`torch.func` makes one grouped convolution of many runs' convolutions. On the CPU that is slower than one by one where
pictures are large, and it ignores that the candidates of a cell all look at the same rows.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.func import vmap
from torch.nn import functional as F
from torch.nn.modules.utils import _pair
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

OPERATIONS = {"conv2d", "max_pool2d"}
LARGE = 1e5  # operations of an average convolution on one row; from here on grouped ones lose to single ones
FEW = 25  # numbers under a kernel; with more, PyTorch's own convolution of one run is as fast as a matrix product


class ConvolutionMeter(TorchFunctionMode):
    """Within it, the work of every convolution is written down, in floating-point operations per row.

    >>> with ConvolutionMeter() as meter, torch.no_grad():
    ...     _ = torch.nn.Conv2d(1, 8, 3)(torch.zeros(2, 1, 10, 10))
    >>> meter.flops, meter.large
    ([9216.0], False)
    """

    def __init__(self) -> None:
        super().__init__()
        self.flops: list[float] = []

    @property
    def large(self) -> bool:
        """Whether the average convolution is so large that on the CPU runs had better be called one by one."""
        return sum(self.flops) > LARGE * len(self.flops)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func in (F.conv1d, F.conv2d, F.conv3d):
            weight = args[1] if len(args) > 1 else (kwargs or {})["weight"]
            self.flops.append(2.0 * result[0].numel() * weight[0].numel())
        return result


class Columns:
    """What lies under a convolution's kernel at each of its places, as the columns of a matrix per row.

    The last answer is kept: every candidate of a cell asks about the same rows.

    >>> columns = Columns((2, 2), (1, 1), (0, 0), (1, 1))
    >>> columns(torch.arange(6.0).reshape(1, 1, 2, 3)).tolist()
    [[[0.0, 1.0], [1.0, 2.0], [3.0, 4.0], [4.0, 5.0]]]
    """

    def __init__(self, kernel: tuple[int, ...], *places: tuple[int, ...]):
        self.kernel, (self.stride, self.padding, self.dilation) = kernel, places
        self._last: tuple[Any, Tensor, Tensor] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_last": None}  # addresses mean nothing in another process

    def n_places(self, x: Tensor) -> tuple[int, int]:
        """How many places there are, down and across."""
        down, across = (
            (x.shape[i - 2] + 2 * self.padding[i] - self.dilation[i] * (self.kernel[i] - 1) - 1) // self.stride[i] + 1
            for i in (0, 1)
        )
        return down, across

    def __call__(self, x: Tensor) -> Tensor:
        """Return Tensor (..., n_under_kernel, n_places) of x (..., n_channels, height, width)."""
        key = (x.data_ptr(), x.shape, x.stride(), x._version)
        if self._last is None or self._last[0] != key:
            self._last = key, x, self._columns(x)  # x, too: while it lives, nothing else lies at its address
        return self._last[2]

    def _columns(self, x: Tensor) -> Tensor:
        height, width = self.n_places(x)
        (down, across), padding = self.stride, self.padding
        padded = F.pad(x, (padding[1], padding[1], padding[0], padding[0]))
        columns = x.new_empty(*x.shape[:-2], *self.kernel, height, width)
        for i in range(self.kernel[0]):
            for j in range(self.kernel[1]):
                top, left = i * self.dilation[0], j * self.dilation[1]
                rows = slice(top, top + (height - 1) * down + 1, down)
                columns[..., i, j, :, :] = padded[..., rows, slice(left, left + (width - 1) * across + 1, across)]
        return columns.flatten(-5, -3).flatten(-2)


class SharedConv(torch.autograd.Function):
    """A convolution of rows that are data, as one matrix product with all the kernels that meet the same rows.

    Rows are x (n_rows, n_channels, height, width), kernels w (n_out, n_channels, ...), biases b (n_out,) or None;
    each with one more axis in front, of cells, if they differ by cell. Where rows are mapped over beyond that, it is
    PyTorch's own convolution.
    """

    @staticmethod
    def forward(x: Tensor, w: Tensor, b: Tensor | None, columns: Columns) -> Tensor:
        cols, kernels = columns(x), w.flatten(-3)
        y = x.new_empty(*cols.shape[:-2], kernels.shape[-2], cols.shape[-1])
        for cell in range(len(x)) if x.dim() > 4 else [...]:
            per_row = kernels[cell].expand(x.shape[-4], -1, -1)  # in one product for all cells they would be copied
            if b is None:
                torch.bmm(per_row, cols[cell], out=y[cell])
            else:
                torch.baddbmm(b[cell].unsqueeze(-1), per_row, cols[cell], out=y[cell])
        return y.unflatten(-1, columns.n_places(x))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, w, b, columns = inputs
        ctx.cols, ctx.shape, ctx.has_bias = columns(x), w.shape, b is not None

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of kernels and biases; the rows are no function of parameters, or they would be mapped over."""
        gradient = gradient.flatten(-2)
        kernels = torch.matmul(gradient, ctx.cols.mT).sum(-3).view(ctx.shape)
        return None, kernels, gradient.sum((-3, -1)) if ctx.has_bias else None, None

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], x: Tensor, w: Tensor, b: Tensor | None, columns: Columns) -> Any:
        x_dim, w_dim, b_dim, _ = in_dims
        by_cell = w.dim() - (w_dim is not None) > 4
        if w_dim is None or (b is not None and b_dim is None) or (x_dim is not None and by_cell):
            return _convolved(x, w, b, columns, in_dims, by_cell), 0
        w, b = w.movedim(w_dim, 0), None if b is None else b.movedim(b_dim, 0)
        if x_dim is not None:
            return SharedConv.apply(x.movedim(x_dim, 0), w, b, columns), 0
        axis = 1 if by_cell else 0
        side_by_side = [None if t is None else t.movedim(0, axis).flatten(axis, axis + 1) for t in (w, b)]
        return SharedConv.apply(x, *side_by_side, columns).unflatten(-3, (len(w), -1)), x.dim() - 3


def _convolved(x: Tensor, w: Tensor, b: Tensor | None, columns: Columns, in_dims: Any, by_cell: bool) -> Tensor:
    def convolve(x: Tensor, w: Tensor, b: Tensor | None) -> Tensor:
        return F.conv2d(x, w, b, columns.stride, columns.padding, columns.dilation)

    mapped = vmap(convolve, in_dims=(0, 0, None if b is None else 0)) if by_cell else convolve
    return vmap(mapped, in_dims=tuple(in_dims[:3]))(x, w, b)


class HalvingPool(torch.autograd.Function):
    """The largest of each 2 x 2 pixels, as `F.max_pool2d(x, 2)`: among equals, the first one gets the gradient.

    Returns what backward needs, too: where the left of two columns was taken, and the upper of two rows.

    >>> HalvingPool.apply(torch.arange(20.0).reshape(4, 5))[0].tolist()
    [[6.0, 8.0], [16.0, 18.0]]
    """

    @staticmethod
    def forward(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        left, right = _left_right(x)
        across = torch.maximum(left, right)
        top, bottom = _top_bottom(across)
        return torch.maximum(top, bottom), left >= right, top >= bottom

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: tuple[Tensor, Tensor, Tensor]) -> None:
        ctx.shape, ctx.taken = inputs[0].shape, output[1:]
        ctx.mark_non_differentiable(*output[1:])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, *_: Any) -> Tensor:
        is_left, is_top = ctx.taken
        has_odd = any(n % 2 for n in ctx.shape[-2:])  # pixels that were left out get no gradient
        new = gradient.new_zeros if has_odd else gradient.new_empty
        across, full = new(is_left.shape), new(ctx.shape)
        _deal(gradient, is_top, *_top_bottom(across))
        _deal(across, is_left, *_left_right(full))
        return full

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int], x: Tensor) -> Any:
        return HalvingPool.apply(x.movedim(in_dims[0], 0)), (0, 0, 0)


def _left_right(x: Tensor) -> tuple[Tensor, Tensor]:
    """Left and right of each two columns; an odd last one is left out."""
    return x[..., 0 : x.shape[-1] - 1 : 2], x[..., 1::2]


def _top_bottom(x: Tensor) -> tuple[Tensor, Tensor]:
    return x[..., 0 : x.shape[-2] - 1 : 2, :], x[..., 1::2, :]


def _deal(gradient: Tensor, is_first: Tensor, first: Tensor, second: Tensor) -> None:
    """Write the gradient to one of two places, and zero to the other."""
    torch.mul(gradient, is_first, out=first)
    torch.sub(gradient, first, out=second)


class SharedPictures(TorchFunctionMode):
    """Within it, convolutions of data and poolings that halve are computed in the faster ways of this module.

    Parameters
    ----------
    data : Tensor or structure of such, optional
        Where runs are called one by one: what they are called on, whose convolution by few numbers is worth it.
        Where they are mapped, it is known what they share.
    known : dict, optional
        Where to keep `Columns` for another time.

    >>> x, conv = torch.rand(2, 1, 5, 5), torch.nn.Conv2d(1, 3, 2)
    >>> with SharedPictures(x):
    ...     y = F.max_pool2d(conv(x), 2)
    >>> torch.allclose(y, F.max_pool2d(conv(x), 2))
    True
    """

    def __init__(self, data: Any = None, known: dict[Any, Columns] | None = None):
        super().__init__()
        self._storages = None if data is None else {_address(t) for t in tree_leaves(data)}
        self._known = {} if known is None else known

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is F.conv2d:
            return self._convolve(*args, **kwargs)
        if func in (F.max_pool2d, torch.max_pool2d) and _halves(*args, **kwargs):
            return _halved(args[0] if args else kwargs["input"])
        return func(*args, **kwargs)

    def _convolve(
        self, input: Tensor, weight: Tensor, bias: Any = None, stride: Any = 1, padding: Any = 0, dilation: Any = 1,
        groups: int = 1,
    ) -> Tensor:  # fmt: skip
        if groups != 1 or isinstance(padding, str) or not self._is_shared(input, weight):
            return F.conv2d(input, weight, bias, stride, padding, dilation, groups)
        places = tuple(weight.shape[2:]), _pair(stride), _pair(padding), _pair(dilation)
        return SharedConv.apply(input, weight, bias, self._known.setdefault(places, Columns(*places)))

    def _is_shared(self, x: Tensor, weight: Tensor) -> bool:
        if x.dim() != 4 or x.dtype != weight.dtype or torch.is_autocast_enabled(x.device.type):
            return False
        if self._storages is None:
            return True
        return not (x.requires_grad or x.is_inference()) and weight[0].numel() <= FEW and _address(x) in self._storages


def _address(x: Tensor) -> int:
    return x.untyped_storage().data_ptr()


def _halves(
    input: Tensor, kernel_size: Any, stride: Any = None, padding: Any = 0, dilation: Any = 1, ceil_mode: bool = False,
    return_indices: bool = False,
) -> bool:  # fmt: skip
    usual = _pair(kernel_size) == (2, 2) == _pair(stride or kernel_size) and _pair(padding) == (0, 0)
    return usual and _pair(dilation) == (1, 1) and not ceil_mode and not return_indices and min(input.shape[-2:]) > 1


def _halved(x: Tensor) -> Tensor:
    if torch.is_grad_enabled():
        return HalvingPool.apply(x)[0]
    across = torch.maximum(*_left_right(x))
    return torch.maximum(*_top_bottom(across))
