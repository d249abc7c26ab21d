"""Checks whether the stacked engine is correct on a CUDA device, and how fast it is there; it takes about five minutes.

    python benchmarks/cuda_check.py --json cuda.json         # everything, on CUDA
    python benchmarks/cuda_check.py --quick --device cpu     # does it work? without the checks that need CUDA
    python benchmarks/cuda_check.py --only agreement timings

Each line says PASS or FAIL, or MISS if a speed goal is not met. The models of `bench_engines.py` are timed. The exit
status is 1 if any check failed. README.md describes the sections.
"""

from __future__ import annotations

import argparse
import os
import pickle
import subprocess
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import numpy as np
import torch
from _common import Timing, clock, environment, print_environment, write_json
from _cuda_cases import LRS, Attention, Pictures, Recurrent, digits, experiment, losses, net, train
from _sides import grid_search, sequential, stacked
from _workloads import WORKLOADS, make_task

from sklr import MLP
from sklr.engines import SequentialEngine, StackedEngine
from sklr.engines.stacked.model.stack import ModelStack
from sklr.exceptions import OutOfMemoryWarning

N_RUNS = 50
FACTORS = {"mlp-small": 100, "mlp-wide": 100, "cnn-8x8": 30, "cnn-28x28": 30}  # goals: speed-up over sequential
LONGER = {"cnn-28x28": 20}  # epochs; with the two epochs of `bench_engines.py` setup takes longer than training


class Check(NamedTuple):
    """A check: the function's result is printed, an exception is a failure; with `cuda`, it needs a CUDA device."""

    name: str
    call: Callable[[], Any]
    cuda: bool = False


def agreement(device: str, quick: bool) -> Iterator[Check]:
    """Stacked nets agree with nets trained one by one, in float64 and (without TF32) float32, including CUDA graphs."""
    more = {"device": device, "max_epochs": 2 if quick else 15}
    cases = {
        "MLP": net(optimizer__momentum=0.9, **more),
        "MLP, Adam": net(optimizer="adam", **more),
        "MLP, RMSprop": net(optimizer="rmsprop", **more),
        "MLP, AdamW, weight decay, clipping, cosine": net(
            optimizer="adamw", optimizer__weight_decay=0.1, clip=0.5, schedule="cosine", **more
        ),
        "convolutions": net(Pictures, optimizer__momentum=0.9, optimizer__nesterov=True, **more),
        "batch normalization": net(Pictures, module__normalized=True, **more),
        "attention": net(Attention, **more),
        "attention within a mask": net(Attention, module__masked=True, **more),
    }
    if _has_recurrent_layers(device):
        cases["GRU"] = net(Recurrent, **more)
    for name, estimator in cases.items():
        yield Check(f"{name}, float64", partial(compared, estimator, torch.float64, 1e-9))
    for name in ("MLP, Adam", "convolutions", "batch normalization", "attention"):
        yield Check(f"{name}, float32", partial(compared, cases[name], torch.float32, 2e-3))
    for name in ("convolutions", "batch normalization"):
        yield Check(f"{name} can be stacked where cuDNN rounds to TF32", partial(probed, cases[name]))


def _has_recurrent_layers(device: str) -> bool:
    """Say whether the device has PyTorch's recurrent layers; the simulated one of the tests has not."""
    return device == "cpu" or torch.backends.cudnn.is_available()


def compared(estimator: Any, dtype: torch.dtype, tolerance: float) -> str:
    """Train stacked and one by one; raise if weights differ by more than `tolerance` times the largest weight."""
    estimator = estimator.set_params(module__dtype=dtype)
    with torch.backends.cudnn.flags(allow_tf32=False):
        (ours, n_replayed), (theirs, _) = train(estimator), train(estimator, engine=SequentialEngine())
    worst = 0.0
    for a, b in zip(ours, theirs, strict=True):
        mine, other = a.estimator.module_.state_dict(), b.estimator.module_.state_dict()
        scale = {name: value.abs().max().clamp(min=1e-30) for name, value in other.items()}
        worst = max([worst, *(float((mine[name] - other[name]).abs().max() / scale[name]) for name in other)])
    if not worst <= tolerance:
        raise AssertionError(f"weights differ by {worst:.1e} of the largest")
    return f"weights differ by {worst:.1e}, {n_replayed} steps replayed"


def probed(estimator: Any) -> str:
    """Check whether runs can be stacked with the current settings."""
    if reasons := StackedEngine().unsupported(experiment(estimator.set_params(module__dtype=torch.float32)), LRS):
        raise AssertionError("; ".join(reasons))
    return f"cudnn.allow_tf32 {torch.backends.cudnn.allow_tf32}"


def randomness(device: str, quick: bool) -> Iterator[Check]:
    """Dropout is the same for all candidates of a cell, with and without graphs; global generators do not change."""
    more = {"device": device, "max_epochs": 2 if quick else 25}
    modules = {"MLP": MLP, "convolutions": Pictures, "attention": Attention}
    if _has_recurrent_layers(device):
        modules["GRU"] = Recurrent
    for name, module in modules.items():
        yield Check(f"dropout, {name}", partial(dropped, net(module, module__dropout=0.5, **more)))
    yield Check("CUDA's generator is left alone by nets on CUDA", partial(left_alone, net(**more)), cuda=True)
    yield Check("... and by nets on the CPU", partial(left_alone, net(device="cpu")), cuda=True)


def dropped(estimator: Any) -> str:
    """Train two equal candidates, with and without replayed steps, and compare."""
    twice = [LRS[0], LRS[0]]
    outcomes, n_replayed = train(estimator, 192, candidates=twice)
    with patch.object(ModelStack, "_is_replayed", False):
        plain, _ = train(estimator, 192, candidates=twice)
    found, wanted = losses(outcomes), losses(plain)
    if not np.array_equal(*np.split(found, 2)):
        raise AssertionError("equal candidates draw different numbers")
    if not np.array_equal(found, wanted):
        raise AssertionError(f"replayed steps draw other numbers: losses differ by {abs(found - wanted).max():.1e}")
    return f"{n_replayed} steps replayed"


def left_alone(estimator: Any) -> None:
    """Train one net and a stack, and assert that the generator's state does not change."""
    before = torch.cuda.get_rng_state()
    estimator.fit(*digits(100))
    train(estimator)
    if not torch.equal(before, torch.cuda.get_rng_state()):
        raise AssertionError("the generator has moved")


def handback(device: str, quick: bool) -> Iterator[Check]:
    """Returned nets can be trained further, and predict on a machine without CUDA."""
    yield Check("a net trains on from where its run ended", partial(trained_on, net(optimizer="adam", device=device)))
    weight = torch.linspace(0.5, 2, 10)
    yield Check("class weights where steps are accumulated", partial(accumulated, device, weight))
    yield Check("a pickled net predicts without CUDA", partial(elsewhere, net(device=device)), cuda=True)


def trained_on(estimator: Any) -> str:
    """Continue a run after three epochs; compare with a net that was never stacked."""
    (ours, _), (theirs, _) = train(estimator), train(estimator, engine=SequentialEngine())
    X, y = digits(203)
    found, wanted = (outcomes[3].estimator.partial_fit(X, y).history_[-1, "train_loss"] for outcomes in (ours, theirs))
    if not np.isclose(found, wanted, rtol=1e-3):
        raise AssertionError(f"loss {found:.6g} instead of {wanted:.6g}")
    step = ours[3].estimator.optimizer_.state_dict()["state"][0]["step"]
    if step.device.type != "cpu":  # reading it would synchronize with the device for every step and parameter
        raise AssertionError(f"the optimizer counts its steps on {step.device}")
    return f"loss {found:.6g}, one by one {wanted:.6g}"


def accumulated(device: str, weight: torch.Tensor) -> None:
    """Train on batches of 64 rows, whole and accumulated from two parts."""
    whole = net(device=device, batch_size=64, criterion__weight=weight).fit(*digits(192))
    parts = net(device=device, accumulate_steps=2, criterion__weight=weight).fit(*digits(192))
    np.testing.assert_allclose(parts.history_[:, "train_loss"], whole.history_[:, "train_loss"], rtol=1e-4)


def elsewhere(estimator: Any) -> str:
    """Pickle a net, and predict with it in a process that sees no CUDA device."""
    X, y = digits(100)
    fitted = estimator.fit(X, y)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "net.pkl"
        path.write_bytes(pickle.dumps((fitted, X)))
        code = "import pickle, sys; net, X = pickle.load(open(sys.argv[1], 'rb')); print(*net.predict(X), net.device)"
        hidden = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": os.pathsep.join(sys.path)}
        command = [sys.executable, "-W", "ignore", "-c", code, str(path)]
        done = subprocess.run(command, env=hidden, capture_output=True, text=True, check=False)
    if done.returncode:
        raise AssertionError(done.stderr.strip().splitlines()[-1])
    *labels, where = done.stdout.split()
    share = float(np.mean(np.array(labels) == fitted.predict(X).astype(str)))
    if where != "cpu" or share < 0.99:
        raise AssertionError(f"on {where} {share:.0%} of the predictions are the same")
    return f"on {where} {share:.0%} of the predictions are the same"


def waits(device: str, quick: bool) -> Iterator[Check]:
    """A step never waits for the device, and an epoch waits only for its losses."""
    more = {"device": device}
    cases = {
        "MLP": net(**more),
        "MLP, Adam, clipping": net(optimizer="adam", clip=1.0, **more),
        "batch normalization": net(Pictures, module__normalized=True, **more),
        "attention, dropout": net(Attention, module__dropout=0.5, **more),
    }
    for name, estimator in cases.items():
        yield Check(f"an epoch of {name}", partial(waited, estimator, 192), cuda=True)
        yield Check("... on folds of two sizes", partial(waited, estimator, 194), cuda=True)


def waited(estimator: Any, n_rows: int) -> str:
    """Count the synchronizations in an epoch, which PyTorch reports as warnings."""
    training = StackedEngine().start(experiment(estimator, n_rows), LRS)
    training.advance(1)
    pack = training.packs[0].pack
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as heard:
            warnings.simplefilter("always")
            pack.train_epoch()
        lr = torch.from_numpy(pack.lrs(pack.epoch_multipliers(pack.feed_epoch().sizes)))
        feed = pack.feed_epoch()
        torch.cuda.set_sync_debug_mode("error")
        pack.steps(feed, lr)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    places = Counter(f"{Path(w.filename).name}:{w.lineno}" for w in heard if "synchroniz" in str(w.message))
    if places.total() > 1:
        raise AssertionError(f"it waits {places.total()} times: {dict(places)}")
    return f"{places.total()} wait in {len(pack.pack_cells[0].epochs[0])} steps"


def memory(device: str, quick: bool) -> Iterator[Check]:
    """A stack that does not fit is halved, and its runs give the same results."""
    yield Check("a stack that runs out of memory is halved", partial(halved, device, quick), cuda=True)


def halved(device: str, quick: bool) -> str:
    """Train with less memory than the stack needed before."""
    estimator = net(device=device, module__hidden=(128,) * 6, batch_size=1024, optimizer="adam")
    candidates = [{"lr": 10 ** (-4 + i / 32)} for i in range(32)]

    def run() -> tuple[np.ndarray, int]:
        training = StackedEngine(max_stack=96).start(experiment(estimator, 1797, keep=False), candidates)
        outcomes = training.finish()
        return losses([o for row in outcomes for o in row]), len(training.packs)

    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    wanted, _ = run()
    peak, total = torch.cuda.max_memory_allocated(), torch.cuda.mem_get_info()[1]
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(0.75 * peak / total)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", OutOfMemoryWarning)
            found, n_packs = run()
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    np.testing.assert_allclose(found, wanted, rtol=1e-2)
    if n_packs < 2:
        raise AssertionError("it did fit")
    return f"{n_packs} packs in 75 % of {peak / 2**20:.0f} MiB"


def timings(device: str, quick: bool) -> Iterator[Check]:
    """Time a search of 50 runs for each side; for sides that train one by one, five runs are timed and scaled up."""
    for name in ["mlp-small"] if quick else WORKLOADS:
        yield Check(name, partial(timed, name, None, device, quick))
    for name, epochs in [] if quick else LONGER.items():
        yield Check(f"{name}, {epochs} epochs", partial(timed, name, epochs, device, quick))


def timed(name: str, epochs: int | None, device: str, quick: bool) -> dict[str, Any]:
    """Return the seconds of a stacked search, of one without graphs, and of 50 runs trained one by one."""
    task = make_task(WORKLOADS[name], "sgd", 8 if quick else N_RUNS, device, quick)
    task = task if quick or epochs is None else task.but(max_epochs=epochs)
    few = task.but(lrs=task.lrs[len(task.lrs) // 2 :][:1])
    stacked(task.but(max_epochs=1))
    ours = Timing(tuple(clock(partial(stacked, task)) for _ in range(1 if quick else 5)))
    with patch.object(ModelStack, "_is_replayed", False):
        plain = clock(partial(stacked, task))
    scale = task.n_runs / few.n_runs
    theirs, grid = scale * clock(partial(sequential, few)), scale * clock(partial(grid_search, few))
    return {
        "runs": task.n_runs, "epochs": task.max_epochs, "timed one by one": few.n_runs, "stacked": ours,
        "stacked, not replayed": plain, "sequential engine": theirs, "GridSearchCV": grid,
        "times the sequential engine": theirs / ours.median, "times GridSearchCV": grid / ours.median,
    }  # fmt: skip


SECTIONS = {
    "agreement": agreement, "randomness": randomness, "handback": handback, "waits": waits, "memory": memory,
    "timings": timings,
}  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    """Run the sections, print their results, and write them to a file if asked to."""
    options = parse(argv)
    found = environment()
    print_environment(found)
    torch.set_num_threads(1)
    lines: list[dict[str, Any]] = []
    for section in options.only or SECTIONS:
        print(f"{section}: {SECTIONS[section].__doc__}")
        for check in SECTIONS[section](options.device, options.quick):
            if not check.cuda or torch.device(options.device).type == "cuda":
                lines.append({"section": section, "name": check.name, **outcome(check, options.quick)})
                print("  " + told(lines[-1]))
    failed = sum(line["kind"] == "FAIL" for line in lines)
    print(f"{len(lines)} checks, {failed} failed")
    if options.json:
        write_json(options.json, {**found, "lines": lines})
    return int(failed > 0)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="does it work? numbers mean nothing")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--only", nargs="+", choices=SECTIONS)
    parser.add_argument("--json", type=Path)
    return parser.parse_args(argv)


def outcome(check: Check, quick: bool) -> dict[str, Any]:
    """Run a check, and return its outcome."""
    try:
        found = check.call()
    except Exception as error:  # a failed check must not prevent the next one
        text = (str(error).strip().splitlines() or [""])[0]
        return {"kind": "FAIL", "text": f"{type(error).__name__}: {text}"}
    if not isinstance(found, dict):
        return {"kind": "PASS", "text": found or ""}
    least = FACTORS.get(check.name)
    met = least is None or quick or found["times the sequential engine"] >= least
    numbers = ", ".join(f"{name} {_shown(value)}" for name, value in found.items())
    return {"kind": "PASS" if met else "MISS", "text": numbers, "goal": least, "numbers": found}


def told(line: dict[str, Any]) -> str:
    """Return an outcome as the line that is printed."""
    return f"{line['kind']} {line['name']}" + (f": {line['text']}" if line["text"] else "")


def _shown(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    sys.exit(main())
