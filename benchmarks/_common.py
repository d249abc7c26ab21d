"""Shared by all benchmarks: description of the machine, timings, tables and JSON."""

from __future__ import annotations

import gc
import io
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

PACKAGES = ("sklr", "torch", "skorch", "scikit-learn", "joblib", "optuna", "scikit-optimize", "numpy", "scipy")


@dataclass(frozen=True)
class Timing:
    """Wall time of the repetitions of one side, in seconds.

    >>> print(Timing((3.0, 1.0, 2.0)))
    2.00 s (1.00..3.00)
    """

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    def plus(self, seconds: float) -> Timing:
        """Return the timing with a constant cost added to each repetition."""
        return Timing(tuple(s + seconds for s in self.seconds))

    @property
    def middle(self) -> str:
        """The median as text, with at least two significant digits."""
        return f"{self.median:.{self._digits}f}"

    @property
    def spread(self) -> str:
        """The fastest and the slowest repetition."""
        return f"{min(self.seconds):.{self._digits}f}..{max(self.seconds):.{self._digits}f}"

    @property
    def _digits(self) -> int:
        return 3 if self.median < 1 else 2

    def __str__(self) -> str:
        return f"{self.middle} s ({self.spread})"


def clock(function: Callable[[], Any]) -> float:
    """Return the wall time of a call in seconds; garbage of earlier calls is collected first."""
    gc.collect()
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def take_turns(
    sides: Mapping[str, Callable[[], Any]], repeat: int, slow: float = 15.0, slow_repeat: int = 3
) -> dict[str, Timing]:
    """Time several sides in turns, so that a temporarily slow machine affects all of them.

    Parameters
    ----------
    sides : mapping of str to callable
        They must have been run once: no repetition is discarded as a warm-up.
    repeat : int
        Repetitions of each side.
    slow, slow_repeat : float, int
        A side whose first repetition takes longer than `slow` seconds is repeated at most `slow_repeat` times.
    """
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for i in range(repeat):
        for name, function in sides.items():
            if i < slow_repeat or seconds[name][0] <= slow:
                tell(f"{name}, {i + 1} of {repeat}")
                seconds[name].append(clock(function))
    return {name: Timing(tuple(taken)) for name, taken in seconds.items()}


@contextmanager
def threads(n: int) -> Iterator[None]:
    """Let PyTorch use `n` intra-op threads within this context."""
    before = torch.get_num_threads()
    torch.set_num_threads(n)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def environment() -> dict[str, Any]:
    """Return versions, machine and thread settings as values that JSON can hold."""
    return {
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in PACKAGES},
            "commit": _commit(),
        },
        "machine": {
            "cpu": _cpu_name(),
            "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
            "vector": torch.backends.cpu.get_cpu_capability(),
            "system": platform.system(),
            "load before": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
            "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        },
        "threads": {"torch": torch.get_num_threads(), "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS")},
    }


def _commit() -> str | None:
    """Return the commit that is measured, or None outside a git checkout."""
    asked = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short", "HEAD"]
    try:
        return subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def print_environment(found: Mapping[str, Mapping[str, Any]]) -> None:
    """Print each part of `environment()` on one line, and make standard output line-buffered from here on."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)
    for part, values in found.items():
        print(f"{part}: " + ", ".join(f"{name} {value}" for name, value in values.items() if value is not None))


def table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Return rows as aligned text; the first column is left-aligned, the others right-aligned.

    >>> print(table(["side", "s"], [["ours", 1], ["theirs", 25]]))
    side     s
    ours     1
    theirs  25
    """
    cells = [[str(value) for value in row] for row in [header, *rows]]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = [
        "  ".join([row[0].ljust(widths[0]), *(v.rjust(w) for v, w in zip(row[1:], widths[1:], strict=True))])
        for row in cells
    ]
    return "\n".join(line.rstrip() for line in lines)


def write_json(path: str | Path, document: Mapping[str, Any]) -> None:
    """Write a benchmark's numbers to a file, creating its folder."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, indent=1, default=_plain) + "\n")


def _plain(value: Any) -> Any:
    if isinstance(value, Timing):
        return list(value.seconds)
    return str(value) if isinstance(value, Path) else value.item()


def tell(message: str) -> None:
    """Show a progress message if standard error is a terminal."""
    if sys.stderr.isatty():
        print(f"\r\033[K{message}", end="\r", file=sys.stderr, flush=True)


def in_own_process(script: str, *arguments: str) -> dict[str, Any]:
    """Run a benchmark's script for one side in a new process, and return the JSON that it prints as its last line.

    With ``--quick``, where the times mean nothing, it runs in this process, which saves the imports.
    """
    if "--quick" in arguments:
        printed = io.StringIO()
        with redirect_stdout(printed):
            import_module(Path(script).stem).main(list(arguments))
        return json.loads(printed.getvalue().splitlines()[-1])
    done = subprocess.run([sys.executable, script, *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(arguments)} failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])
