"""A CUDA device that is not there: tensors that say ``cuda:0``, are computed on the CPU, and as strict as real ones.

They refuse to be mixed with CPU tensors, but for numbers (no dimension); draw from a generator of their own; count what
would be launched and what the host would wait for; and take memory of which there may be too little. To be imported
before PyTorch, in a process of its own: `run.py` does.

It cannot show: TF32 and other kernels than the CPU's (cuBLAS, cuDNN, fused attention), which round otherwise and have
other batching rules; asynchrony, streams and CUDA graphs (none can be captured, so steps stay plain); several devices;
worker processes; what an operation needs of memory while it runs, and fragmentation; time. A launch is one operation of
ATen that computes; a real one may take several kernels. PyTorch steps optimizers parameter by parameter here, unless
they are fused.
"""

import collections
import os
import sys
import threading
import warnings
import weakref
from contextlib import contextmanager
from importlib import import_module

import_module("simguard")  # before PyTorch, which asks for its hooks when it is imported
import torch  # noqa: E402
from torch.utils._pytree import tree_leaves, tree_map  # noqa: E402

aten = torch.ops.aten
CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)
TOTAL = 80 * 2**30


class Simulated:
    """What the device is, has and has done."""

    def __init__(self):
        self.there = os.environ.get("CUDA_VISIBLE_DEVICES") != ""  # whether PyTorch sees it
        self.in_use = False
        self.generator = torch.Generator().manual_seed(20)
        self.limit = TOTAL  # bytes
        self.used = self.most_used = 0
        self.sync_mode = "default"
        self.lock = threading.RLock()
        self.forget()

    def forget(self):
        self.launches = 0
        self.waits = collections.Counter()  # by what is waited for, and where

    def wait(self, what):
        self.waits[what, _place()] += 1
        if self.sync_mode == "error":
            raise RuntimeError(f"called a synchronizing CUDA operation: {what} at {_place()}")
        if self.sync_mode == "warn":
            warnings.warn(f"called a synchronizing CUDA operation: {what}", stacklevel=3)

    @contextmanager
    def counted(self):
        """Count launches and waits within, from 0."""
        self.forget()
        yield self

    @contextmanager
    def limited(self, n_bytes):
        """Let there be so much memory within."""
        self.limit = n_bytes
        try:
            yield self
        finally:
            self.limit = TOTAL

    @contextmanager
    def gone(self):
        """Let there be no CUDA within."""
        self.there = False
        try:
            yield
        finally:
            self.there = True


SIM = Simulated()


def _place():
    frame = sys._getframe(1)
    while frame is not None:
        if "/sklr/" in frame.f_code.co_filename:
            return f"{frame.f_code.co_filename.rpartition('/sklr/')[2]}:{frame.f_lineno}"
        frame = frame.f_back
    return "?"


class Memory:
    """A block of the device's memory, free again with the last tensor that sees it."""

    known = weakref.WeakValueDictionary()  # noqa: RUF012 - by storage, of all tensors

    def __init__(self, n_bytes):
        self.n_bytes = 0
        if SIM.used + n_bytes > SIM.limit and n_bytes:
            raise torch.OutOfMemoryError(f"CUDA out of memory. Tried to allocate {n_bytes} bytes (simulated).")
        self.n_bytes = n_bytes
        SIM.used += n_bytes
        SIM.most_used = max(SIM.used, SIM.most_used)

    def __del__(self):
        SIM.used -= self.n_bytes

    @classmethod
    def of(cls, tensor):
        storage = tensor.untyped_storage()
        with SIM.lock:
            block = cls.known.get(storage._cdata)
            if block is None:
                block = cls.known[storage._cdata] = cls(storage.nbytes())
            return block


class CudaTensor(torch.Tensor):
    """A tensor on the device; `inside` is the CPU's that holds the numbers."""

    @staticmethod
    def __new__(cls, inside):
        return torch.Tensor._make_wrapper_subclass(
            cls, inside.size(), inside.stride(), inside.storage_offset(), dtype=inside.dtype, device=CUDA
        )

    def __init__(self, inside):
        self.inside, self.memory = inside, Memory.of(inside)

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return dispatched(func, args, kwargs or {})

    def __repr__(self, **kwargs):
        return f"CudaTensor({self.inside!r})"

    def numpy(self, **kwargs):
        if kwargs.get("force"):
            return self.detach().cpu().numpy()
        raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() first.")

    def __array__(self, *args, **kwargs):
        return self.numpy()

    def tolist(self):
        return self.cpu().tolist()

    def untyped_storage(self):
        return self.inside.untyped_storage()

    def data_ptr(self):
        return self.inside.data_ptr()

    def __deepcopy__(self, memo):
        if id(self) not in memo:
            memo[id(self)] = copy = made_again(self.inside.detach().clone(), self.requires_grad, is_parameter(self))
            copy.grad = None if self.grad is None else self.grad.__deepcopy__(memo)
        return memo[id(self)]

    def __reduce_ex__(self, protocol):
        return made_again, (self.inside.detach(), self.requires_grad, is_parameter(self))


def is_parameter(tensor):
    return isinstance(tensor, torch.nn.Parameter)


def made_again(inside, requires_grad, parameter):
    """Return a tensor that has been pickled: on the device where there is one, else on the CPU."""
    tensor = CudaTensor(inside) if SIM.there else inside
    return torch.nn.Parameter(tensor, requires_grad) if parameter else tensor.requires_grad_(requires_grad)


torch.serialization.add_safe_globals([made_again])


def dispatched(func, args, kwargs):
    """Compute an operation in which a tensor of the device takes part."""
    if func in (aten._to_copy.default, aten.copy_.default):
        return (moved if func is aten._to_copy.default else written)(*args, **kwargs)
    tensors = [t for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)]
    if func in (aten.index.Tensor, aten.index_put.default, aten.index_put_.default, aten._unsafe_index.Tensor):
        for index in (i for i in args[1] if i is not None):
            if not isinstance(index, CudaTensor):
                SIM.wait("an index from the host")
            elif index.dtype in (torch.bool, torch.uint8):
                SIM.wait("the size of a mask")
        checked = [args[0], *args[2:3]]
    else:
        checked = tensors
        if torch.Tag.dynamic_output_shape in func.tags or torch.Tag.data_dependent_output in func.tags:
            SIM.wait(func.overloadpacket.__name__)
    if any(isinstance(t, torch.Tensor) and t.dim() and not isinstance(t, CudaTensor) for t in checked):
        raise RuntimeError(
            f"Expected all tensors to be on the same device, but found at least two devices, cuda:0 and cpu! ({func})"
        )
    if isinstance(kwargs.get("generator"), torch.Generator):
        raise RuntimeError("Expected a 'cuda' device type for generator but found 'cpu'")
    asked = kwargs.get("device")
    there = asked is None or torch.device(asked).type == "cuda"
    SIM.launches += not _only_looks(func)
    found = computed(func, _unwrapped(args), _on_cpu(kwargs))
    return _wrapped(found, tensors) if there else found


def _only_looks(func):
    """Whether an operation computes nothing: it returns a view, or memory as it is."""
    aliases = [returned.alias_info for returned in func._schema.returns]
    is_view = any(alias is not None and not alias.is_write for alias in aliases)
    return is_view or "empty" in func.overloadpacket.__name__ or func in (aten.detach.default, aten.alias.default)


def _unwrapped(value):
    return tree_map(lambda t: t.inside if isinstance(t, CudaTensor) else t, value)


def _on_cpu(kwargs):
    kwargs = {name: value for name, value in _unwrapped(kwargs).items() if name != "pin_memory"}
    return {**kwargs, "device": CPU} if kwargs.get("device") is not None else kwargs


def _wrapped(found, tensors):
    """See results as tensors of the device, what was given as what it was."""
    given = {id(t.inside): t for t in tensors if isinstance(t, CudaTensor)}

    def one(value):
        if not isinstance(value, torch.Tensor):
            return value
        known = given.get(id(value))
        if known is not None and (known.shape, known.stride()) != (value.shape, value.stride()):
            raise NotImplementedError("the simulation knows no tensor that changes its shape in place")
        return CudaTensor(value) if known is None else known

    return tree_map(one, found)


def computed(func, args, kwargs):
    """Call an operation on the CPU; what it draws comes from the device's generator."""
    if torch.Tag.nondeterministic_seeded not in func.tags:
        return func(*args, **kwargs)
    with SIM.lock:
        before = torch.default_generator.get_state()
        torch.default_generator.set_state(SIM.generator.get_state())
        try:
            return func(*args, **kwargs)
        finally:
            SIM.generator.set_state(torch.default_generator.get_state())
            torch.default_generator.set_state(before)


def moved(tensor, *, device=None, non_blocking=False, pin_memory=None, layout=None, **kwargs):
    """`Tensor.to`."""
    there = device is None or torch.device(device).type == "cuda"
    if isinstance(tensor, CudaTensor) and there:
        SIM.launches += 1
        return CudaTensor(aten._to_copy.default(tensor.inside, **kwargs))
    if not non_blocking:
        SIM.wait("a copy from the host" if there else "a copy to the host")
    found = aten._to_copy.default(tensor.inside if isinstance(tensor, CudaTensor) else tensor, **kwargs)
    return CudaTensor(found) if there else found


def written(into, source, non_blocking=False):
    """`Tensor.copy_`."""
    ours = isinstance(into, CudaTensor), isinstance(source, CudaTensor)
    SIM.launches += all(ours)
    if not all(ours) and not non_blocking:
        SIM.wait("a copy from the host" if ours[0] else "a copy to the host")
    aten.copy_.default(*_unwrapped((into, source)))
    return into


def number(tensor):
    SIM.wait("_local_scalar_dense")
    return aten._local_scalar_dense.default(tensor.inside)


def _factory(packet, overload):
    def make(*args, **kwargs):
        SIM.in_use = True
        SIM.launches += "empty" not in packet
        return CudaTensor(computed(getattr(getattr(aten, packet), overload), args, _on_cpu(kwargs)))

    return make


_KERNELS = torch.library.Library("aten", "IMPL")  # for calls that no tensor of the device takes part in yet
for _name in (
    *("empty.memory_format", "empty_strided", "arange", "arange.start", "arange.start_step", "eye", "eye.m", "full"),
    *("linspace", "ones", "rand", "randint", "randint.low", "randn", "randperm", "scalar_tensor", "tril_indices"),
    *("triu_indices", "zeros"),
):
    _packet, _, _overload = _name.partition(".")
    _KERNELS.impl(_name, _factory(_packet, _overload or "default"), "CUDA")
_KERNELS.impl("copy_", written, "CUDA")
_KERNELS.impl("_to_copy", moved, "CUDA")
_KERNELS.impl("_local_scalar_dense", number, "CUDA")


def _set_rng_state(state, device="cuda"):
    SIM.generator.set_state(state)


def _set_fraction(fraction, device=None):
    SIM.limit = int(fraction * TOTAL)


def _seed(seed):
    SIM.generator.manual_seed(int(seed))


def _begin():
    SIM.in_use = True


_STANDS_FOR = {
    "_exchange_device": lambda index: 0,
    "_lazy_init": _begin,
    "_maybe_exchange_device": lambda index: 0,
    "current_device": lambda: 0,
    "device_count": lambda: int(SIM.there),
    "empty_cache": lambda: None,
    "get_device_name": lambda *device: "a simulated device",
    "get_rng_state": lambda device="cuda": SIM.generator.get_state(),
    "get_rng_state_all": lambda: [SIM.generator.get_state()],
    "init": _begin,
    "is_available": lambda: SIM.there,
    "is_bf16_supported": lambda *args, **kwargs: True,
    "is_initialized": lambda: SIM.in_use and SIM.there,
    "manual_seed": _seed,
    "manual_seed_all": _seed,
    "max_memory_allocated": lambda *device: SIM.most_used,
    "mem_get_info": lambda device=None: (SIM.limit - SIM.used, TOTAL),
    "memory_allocated": lambda *device: SIM.used,
    "memory_reserved": lambda *device: SIM.used,
    "reset_peak_memory_stats": lambda *device: setattr(SIM, "most_used", SIM.used),
    "set_per_process_memory_fraction": _set_fraction,
    "set_rng_state": _set_rng_state,
    "set_rng_state_all": lambda states: _set_rng_state(states[0]),
    "set_sync_debug_mode": lambda mode: setattr(SIM, "sync_mode", mode),
    "synchronize": lambda *device: SIM.wait("synchronize"),
}
for _name, _function in _STANDS_FOR.items():
    setattr(torch.cuda, _name, _function)

_load = torch.load


def _loaded(file, map_location=None, **kwargs):
    """`torch.load`: `made_again` sees to the device; the CPU's storages inside stay where they are."""
    if isinstance(map_location, str | torch.device) and torch.device(map_location).type == "cuda":
        map_location = None
    return _load(file, map_location=map_location, **kwargs)


torch.load = _loaded
torch.__future__.set_overwrite_module_params_on_conversion(True)  # `parameter.data = ...` would lose the kind of tensor
