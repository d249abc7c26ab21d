"""How many runs go into one stack: as many as memory, workers and threads allow.

The cells of a candidate stay together, unless there are too few candidates to keep all threads busy.
"""

from __future__ import annotations

import copy
import gc
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from sklr.engines.stacked.data.index_batches import widest
from sklr.engines.stacked.kernels.attention import attention_by_steps
from sklr.engines.stacked.kernels.module_call import call
from sklr.engines.stacked.kernels.recurrent import BatchableRecurrence
from sklr.engines.stacked.model.group import Group
from sklr.engines.stacked.model.stack import ModelStack
from sklr.engines.stacked.replay.recorder import can_replay
from sklr.engines.stacked.setup.devices import devices
from sklr.engines.stacked.setup.run_bytes import measure_run

# most tensors of a run that are as large as its parameters: weights, gradients, updates, Adam's two or three, a spare
STATES = 7
SHARE = 0.5  # of the free memory; the rest is left to other processes


THREAD_WORK = 1e7  # FLOPs of a product per thread that pays; with smaller products threads wait for Python's lock
THREAD_TRAINING = 4e9  # FLOPs of a whole training per thread, where steps are replayed without Python


Chosen = tuple[Group, list[int]]  # a pack before it is built: a group, and the positions of its members in that


def shares(groups: Sequence[Group]) -> list[float]:
    """Return each group's share of all the work."""
    work = [work_of(group, len(group.members)) for group in groups]
    return [own / sum(work) for own in work]


def divide(group: Group, share: float, max_stack: int | None, n_jobs: int) -> list[Chosen]:
    """Divide a group into packs of about equal size.

    Parameters
    ----------
    group : Group
    share : float
        The group's share of all the work, and so of the workers, devices or threads, each of which gets a pack.
    max_stack : int or None
        Most runs in a stack; None for as many as fit into half of the free memory, with the stacks trained beside it.
    n_jobs : int
        Workers, each of which gets a pack; if 1, packs are for its devices or threads, where the work is worth it.
    """
    max_stack = max_stack or _most_runs(group, n_jobs)
    wanted = max(1, round(share * (n_jobs if n_jobs > 1 else _n_threads(group))))
    n_parts = min(-(-wanted // len(group.members)), len(group.group_cells)) if _may_part(group, n_jobs) else 1
    parts = [
        group._replace(group_cells=[group.group_cells[k] for k in part])
        for part in np.array_split(np.arange(len(group.group_cells)), n_parts)
    ]
    return [(part, chosen) for part in parts for chosen in _dealt(part, max_stack, -(-wanted // n_parts))]


def _most_runs(group: Group, n_jobs: int) -> int:
    """Return how many runs of a stack fit into the free memory, with the stacks trained beside it; at least one."""
    beside = n_jobs if n_jobs > 1 else torch.get_num_threads() if group.thread_safe else 1
    free = free_bytes(group.device) // (beside if group.device.type == "cpu" else 1)
    return max(1, int(SHARE * free) // max(1, run_bytes(group)))


def _dealt(group: Group, max_stack: int, wanted: int) -> list[list[int]]:
    """Deal a group's members out to the wanted number of packs, or to more if packs would exceed the memory."""
    n_members = len(group.members)
    at_once = max(1, max_stack // len(group.group_cells))
    return deal(n_members, min(n_members, max(-(-n_members // at_once), wanted)))


def work_of(group: Group, n_members: int) -> float:
    """Return an estimate of a pack's work, to compare packs: about the multiplications of all its steps."""
    pack_cell = group.group_cells[0].pack_cell
    n_numbers = sum(p.numel() for p in pack_cell.net.module_.parameters())
    return n_members * len(group.group_cells) * group.n_steps * max(map(len, pack_cell.epochs[0])) * n_numbers


def _may_part(group: Group, n_jobs: int) -> bool:
    """Say whether a group's cells may be divided over threads: dropout is drawn for all cells of a stack at once."""
    return n_jobs == 1 and group.device.type == "cpu" and not group.stack_args["traits"].draws


def deal(n_members: int, n_packs: int) -> list[list[int]]:
    """Deal members out to packs of about equal size, forwards and backwards in turn.

    Neighbouring candidates have similar scores. So when a pruner stops the lowest, the highest or every second one,
    all packs lose about as many runs, and no pack is left to train alone.

    >>> deal(8, 2), deal(4, 3)
    ([[0, 3, 4, 7], [1, 2, 5, 6]], [[0], [1], [2, 3]])
    """
    turns = np.arange(n_members) % (2 * n_packs)
    packs = np.minimum(turns, 2 * n_packs - 1 - turns)
    return [np.flatnonzero(packs == i).tolist() for i in range(n_packs)]


def _n_threads(group: Group) -> int:
    """Return how many threads train a pack each: one per CUDA device, or on the CPU as many as the work pays for.

    Threads that share each product, as PyTorch's own do, would have to synchronise after every operation.
    """
    if not group.thread_safe:
        return 1
    if group.device.type != "cpu":
        return len(devices(group))
    if torch.get_num_threads() == 1:
        return 1
    product = len(group.members) * len(group.group_cells) * product_flops(group)
    share = product / THREAD_WORK
    if group.steady and can_replay():
        training = 3 * _n_products(group) * product * group.n_steps  # a backward pass costs two forward passes
        share = max(share, training / THREAD_TRAINING)
    return max(1, min(torch.get_num_threads(), int(share)))


def free_bytes(device: torch.device) -> int:
    """Return the free memory of a device, in bytes."""
    if device.type == "cuda":  # the driver counts what PyTorch's allocator caches as used
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + kept
    if "SC_AVPHYS_PAGES" in os.sysconf_names:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return 4 * 2**30  # macOS and Windows do not tell: a value that most machines have free


def run_bytes(group: Group) -> int:
    """Return about how many bytes one run of a stack takes: its state, a batch, and what is computed for that."""
    own = measure_run(group)
    return own.state + own.step + own.batch


def state_bytes(group: Group) -> int:
    """Return the bytes of a run's parameters, gradients and optimizer state."""
    return STATES * sum(p.numel() * p.element_size() for p in group.group_cells[0].pack_cell.net.module_.parameters())


def _few_rows(group: Group) -> tuple[Any, Any, float]:
    """Return the first cell's module in evaluation mode, a few rows for it, and how many times as many a batch has."""
    pack_cell = group.group_cells[0].pack_cell
    size = max(map(len, widest(pack_cell.epochs)))
    few = min(size, 8)
    module = copy.deepcopy(pack_cell.net.module_)  # a copy, since a module may store what it computes
    return module.eval(), pack_cell.x.take(slice(few)), size / few


SMALL_WORK = 1e9  # FLOPs of one product, about ten milliseconds: below this threads mostly wait for each other


@contextmanager
def fitting_threads(flops: float) -> Iterator[None]:
    """Use one CPU thread where a step's matrix products are small, else the user's number of threads.

    Threads synchronise after every operation. With small operations they gain a little on an idle machine, but take
    ten times as long where another process holds a core: OpenMP's waiting threads then spin for a time slice each.

    Parameters
    ----------
    flops : float
        Floating-point operations of an average product; see `step_flops`.
    """
    threads = torch.get_num_threads()
    if flops < SMALL_WORK:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def product_flops(group: Group) -> float:
    """Return the floating-point operations of a run's average matrix product or convolution on a full batch."""
    counter = FlopCounterMode(display=False)
    # The counter does not see into fused kernels. It looks up the gradient functions of the layers' inputs, which views
    # of parameters have none of under `no_grad`.
    with torch.enable_grad(), attention_by_steps(), BatchableRecurrence(), counter:
        module, x, scale = _few_rows(group)
        call(module, x)
    return counter.get_total_flops() * scale / _n_products(group)


def _n_products(group: Group) -> int:
    return max(1, sum(p.dim() > 1 for p in group.group_cells[0].pack_cell.net.module_.parameters()))


def step_flops(group: Group, stack: ModelStack) -> float:
    """Return the floating-point operations of an average product in a step of a stack, for `fitting_threads`."""
    return stack.n_candidates * stack.n_cells * product_flops(group)


def out_of_memory(error: BaseException) -> bool:
    """Say whether an error means that memory has run out, on the device or on the host.

    Only PyTorch's own allocators raise `torch.OutOfMemoryError`. For cuBLAS, cuDNN and the driver it is a RuntimeError
    whose message says so.

    >>> out_of_memory(RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"))
    True
    """
    said = str(error).lower()
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or any(words in said for words in _OUT_OF_MEMORY)


_OUT_OF_MEMORY = (
    "can't allocate memory",
    "not enough memory",
    "out of memory",
    "alloc_failed",
    "allocation_failed",
    "insufficient_resources",
)


def release(device: torch.device) -> None:
    """Free the memory of unused objects, and return PyTorch's cached blocks to the device."""
    gc.collect()  # reference cycles, such as a module and its hooks
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.empty_cache()


def are_too_many(group: Group, n_packs: int) -> bool:
    """Say whether a group's packs must take turns on a CUDA device, since their states together would fill it."""
    if n_packs == 1 or group.device.type != "cuda":
        return False
    return len(group.members) * len(group.group_cells) * state_bytes(group) > SHARE * free_bytes(group.device)


def halves(members: Sequence[int]) -> list[list[int]]:
    """Divide members in two.

    >>> halves([3, 1, 2])
    [[3], [1, 2]]
    """
    middle = len(members) // 2
    return [list(members[:middle]), list(members[middle:])]
