"""The ledger's cost and reliability: overhead, searches killed by kill -9, and memory over many fits.

    python benchmarks/bench_ledger.py --quick                # does it work? numbers mean nothing
    python benchmarks/bench_ledger.py --json ledger.json     # everything: 50 kills for each storage, 500 fits

PostgreSQL is used if its `initdb` is found; the temporary server is the one of the tests. README.md explains how things
are measured.
"""

from __future__ import annotations

import argparse
import gc
import os
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from _common import environment, print_environment, table, take_turns, tell, threads, write_json
from optuna.storages import RDBStorage
from optuna.trial import TrialState
from sklearn.datasets import load_digits
from sklearn.linear_model import SGDClassifier
from sklearn.model_selection import StratifiedKFold
from sqlalchemy.pool import NullPool

from sklr import MLP, LRGridSearchCV, NeuralNetClassifier
from sklr.search._study import Ledger

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "search"))
import killable
import server

KINDS = ("grid", "bayes", "optuna", "stacked")


def digits_search(**params: Any) -> LRGridSearchCV:
    """Return the stacked search of the table in the README: ten learning rates x five folds x ten epochs."""
    net = NeuralNetClassifier(
        MLP,
        module__hidden=(32, 32),
        batch_size=32,
        max_epochs=10,
        iterator_train__shuffle=True,
        optimizer__momentum=0.9,
    )
    folds = StratifiedKFold(5, shuffle=True, random_state=0)
    return LRGridSearchCV(
        net, lr_range=(1e-3, 1.0), n_lrs=10, cv=folds, random_state=0, refit=False, engine="stacked", **params
    )


@contextmanager
def timed(owner: type, names: tuple[str, ...], spent: list[float]) -> Iterator[None]:
    """Add the seconds spent in these methods to `spent`; none of them may call another."""
    originals = {name: getattr(owner, name) for name in names}

    def around(method: Callable) -> Callable:
        def call(*args: Any, **kwargs: Any) -> Any:
            start = time.perf_counter()
            try:
                return method(*args, **kwargs)
            finally:
                spent.append(time.perf_counter() - start)

        return call

    for name, method in originals.items():
        setattr(owner, name, around(method))
    try:
        yield
    finally:
        for name, method in originals.items():
            setattr(owner, name, method)


def in_memory(repeat: int) -> dict[str, float]:
    """Return the share of a search's time that an in-memory study takes, as the median over repetitions."""
    X, y = load_digits(return_X_y=True)
    X = (X / 16).astype("float32")
    digits_search().fit(X, y)
    shares = []
    for _ in range(repeat):
        spent: list[float] = []
        with timed(Ledger, ("open", "report", "close", "abandon"), spent):
            start = time.perf_counter()
            digits_search().fit(X, y)
            shares.append(sum(spent) / (time.perf_counter() - start))
    return {"share in memory": float(np.median(shares)), "worst": max(shares)}


def on_storages(repeat: int, folder: Path, url: str | None) -> dict[str, Any]:
    """Time the search in memory and with storages whose database tables already exist."""
    X, y = load_digits(return_X_y=True)
    X = (X / 16).astype("float32")
    storages = {"SQLite": str(folder / "lr.db"), "journal": str(folder / "lr.log")}
    storages |= {"PostgreSQL": url} if url else {}
    sides = {"in memory": lambda: digits_search().fit(X, y)}
    sides |= {name: lambda at=at: digits_search(storage=at).fit(X, y) for name, at in storages.items()}
    for side in sides.values():
        side()  # creates the database tables, once for all searches
    timings = take_turns(sides, repeat)
    base = timings["in memory"].median
    return {name: {"seconds": t.seconds, "overhead": t.median / base - 1} for name, t in timings.items()}


def study_at(storage: str) -> optuna.Study | None:
    """Return the study of the killed searches, or None if it does not exist yet."""
    if storage.endswith(".db"):
        if not Path(storage).exists():
            return None
        storage = f"sqlite:///{storage}"
    try:
        return optuna.load_study(study_name="lr", storage=RDBStorage(storage, engine_kwargs={"poolclass": NullPool}))
    except KeyError:
        return None


def kills(storages: Iterator[str], n_kills: int, folder: Path, seed: int) -> dict[str, Any]:
    """Kill searches at random moments, `n_kills` times in all, and resume each search until it is finished.

    Raises
    ------
    AssertionError
        If a search does not end like an undisturbed one, or trains finished candidates again.
    """
    moments = np.random.RandomState(seed)
    expected = {
        kind: killable.comparable(killable.search_of(kind).fit(killable.X, killable.Y).cv_results_) for kind in KINDS
    }
    done = searches = twice = lost = 0
    while done < n_kills:
        kind, storage = KINDS[searches % len(KINDS)], next(storages)
        for attempt in range(100):
            study = study_at(storage)
            finished = [] if study is None else killable.finished(study)
            name = f"{seed}-{searches}-{attempt}"  # of the log file, which is appended to
            process, log, out = killable.start(kind, folder, name, 0.02, storage=storage, study_name="lr")
            process.join(moments.uniform(0.05, 1.5) if attempt < 6 and done < n_kills else 120)
            again = killable.trained(log, n_folds=1)
            twice += len(set(finished) & set(again))
            if process.exitcode is not None:
                break
            killable.kill(process)
            done += 1
            after = study_at(storage)
            lost += len(set(finished) - set(killable.finished(after) if after is not None else []))
        assert process.exitcode == 0, f"{kind} ended with {process.exitcode}"
        assert killable.json.loads(out.read_text()) == expected[kind], f"{kind} ended otherwise"
        after = study_at(storage)
        assert after is not None
        assert not after.get_trials(states=(TrialState.RUNNING, TrialState.WAITING))
        searches += 1
        tell(f"{done} kills, {searches} searches")
    assert twice + lost == 0, f"{twice} trained twice, {lost} lost"
    return {"kills": done, "searches": searches, "trained twice": twice, "lost": lost}


def memory_of_fits(n_fits: int, settle: int) -> dict[str, float]:
    """Return the resident memory after `settle` fits and after all of them, in MB."""
    X, y = load_digits(return_X_y=True)
    model = SGDClassifier(max_iter=2, tol=None, learning_rate="constant", random_state=0)
    net = NeuralNetClassifier(MLP, module__hidden=(8,), max_epochs=1, batch_size=256)
    few = (X[:300] / 16).astype("float32")
    after: dict[int, float] = {}
    for i in range(1, n_fits + 1):
        LRGridSearchCV(model, lr_range=(1e-3, 1.0), n_lrs=3, cv=2).fit(few, y[:300])
        LRGridSearchCV(net, n_lrs=3, cv=2, engine="stacked").fit(few, y[:300])
        if i in (settle, n_fits):
            gc.collect()
            after[i] = _resident_mb()
        if i % 50 == 0:
            tell(f"{i} fits")
    return {"settled": after[settle], "end": after[n_fits], "growth": after[n_fits] / after[settle] - 1}


def _resident_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def main() -> None:
    """Run the selected measurements, and print them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="two kills, two repetitions, four fits")
    parser.add_argument(
        "--only", nargs="+", choices=["overhead", "kills", "fits"], default=["overhead", "kills", "fits"]
    )
    parser.add_argument("--json", type=Path, help="where to write the numbers")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    found: dict[str, Any] = environment()
    print_environment(found)
    n_kills, repeat, n_fits = (2, 2, 4) if args.quick else (50, 7, 500)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        postgres = stack.enter_context(server.Server()) if server.find("initdb") and not args.quick else None
        if "overhead" in args.only:
            with threads(1):
                found["memory"] = in_memory(repeat)
                found["overhead"] = on_storages(repeat, folder, postgres.database() if postgres else None)
            rows = [
                [name, f"{np.median(r['seconds']):.3f}", f"{r['overhead']:+.1%}"]
                for name, r in found["overhead"].items()
            ]
            print(f"study in memory: {found['memory']['share in memory']:.2%} of the search")
            print(table(["storage", "s", "against in memory"], rows))
        if "kills" in args.only:
            found["kills"] = {"SQLite": kills((str(folder / f"{i}.db") for i in range(1000)), n_kills, folder, 0)}
            if postgres is not None:
                found["kills"]["PostgreSQL"] = kills((postgres.database() for _ in range(1000)), n_kills, folder, 1)
            for name, counted in found["kills"].items():
                print(f"{name}: " + ", ".join(f"{value} {what}" for what, value in counted.items()))
        if "fits" in args.only:
            found["fits"] = memory_of_fits(n_fits, max(1, n_fits // 10))
            print("{settled:.1f} MB, then {end:.1f} MB: {growth:+.2%}".format(**found["fits"]))
    if args.json:
        write_json(args.json, found)


if __name__ == "__main__":
    main()
