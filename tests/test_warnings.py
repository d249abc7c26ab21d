"""Every warning of sklr points at the line of the user's file that led to it."""

import ast
import inspect
import threading
import types
import warnings
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.exceptions import DataConversionWarning, FitFailedWarning
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

import sklr
from sklr import MLP, BayesSearchCV, LRGridSearchCV, NeuralNetClassifier, OptunaSearchCV, exceptions
from sklr._utils.warnings import warn
from sklr.engines.stacked.model.stack import ModelStack
from sklr.scaling import transfer_lr

X = np.random.default_rng(0).normal(size=(60, 4)).astype("float32")
Y = np.arange(60) % 3
NET = NeuralNetClassifier(MLP, module__hidden=(4,), max_epochs=2, batch_size=16, random_state=0)
ROOT = Path(sklr.__file__).parent


class BlowsUpOnAllRows(MLP):
    def forward(self, X):
        return super().forward(X) * (float("nan") if len(X) == len(Y) else 1.0)


class OwnBatches(NeuralNetClassifier):
    def get_loss(self, *args, **kwargs):
        return super().get_loss(*args, **kwargs)


STRATEGIES = {
    "grid": lambda net, **params: LRGridSearchCV(net, lrs=[0.01, 1e30], cv=2, **params),
    "bayes": lambda net, **params: BayesSearchCV(
        net, {"lr": [0.01, 1e30]}, n_iter=4, n_points=2, cv=2, random_state=0, **params
    ),
    "optuna": lambda net, **params: OptunaSearchCV(
        net, {"lr": [0.01, 1e30]}, n_trials=6, sampler="random", cv=2, random_state=0, **params
    ),
}


def diverged(make, tmp_path, monkeypatch):
    make(NET).fit(X, Y)


def diverged_in_a_pipeline_of_workers(make, tmp_path, monkeypatch):
    net = make_pipeline(StandardScaler(), NET)
    LRGridSearchCV(net, {"neuralnetclassifier__lr": [0.01, 1e30]}, cv=2, n_jobs=2).fit(X, Y)


def refit_diverged(make, tmp_path, monkeypatch):
    make(NET.__class__(BlowsUpOnAllRows, module__hidden=(4,), max_epochs=2, batch_size=-1, random_state=0)).fit(X, Y)


def edge(make, tmp_path, monkeypatch):
    LRGridSearchCV(NET, lrs=[1e-5, 1e-4, 1e-3], cv=2, scoring="neg_log_loss").fit(X, X[:, 0] > 0)


def some_failed(make, tmp_path, monkeypatch):
    LRGridSearchCV(NET, {"lr": [0.01], "module__hidden": [(4,), "wide"]}, cv=2).fit(X, Y)


def trial_caught(make, tmp_path, monkeypatch):
    space = {"C": [-1.0, 1.0]}
    OptunaSearchCV(SVC(), space, n_trials=8, cv=2, error_score="raise", catch=(ValueError,), random_state=0).fit(X, Y)


def journal_repaired(make, tmp_path, monkeypatch):
    path = tmp_path / "lr.log"
    search = LRGridSearchCV(NET, lrs=[0.01], cv=2, storage=str(path), study_name="a").fit(X, Y)
    path.write_bytes(path.read_bytes()[:-30])
    search.set_params(resume=True).fit(X, Y)


def out_of_memory(make, tmp_path, monkeypatch):
    step = ModelStack._step

    def scarce(stack, *args):
        if stack.n_candidates > 2:  # the set-up takes two
            raise torch.OutOfMemoryError("none left")
        return step(stack, *args)

    monkeypatch.setattr(ModelStack, "_step", scarce)
    LRGridSearchCV(NET, lrs=[0.01, 0.03, 0.1], cv=2, engine="stacked").fit(X, Y)


def far(make, tmp_path, monkeypatch):
    transfer_lr(0.1, optimizer="sgd", batch_size=(1, 500))


def above_the_noise_scale(make, tmp_path, monkeypatch):
    transfer_lr(0.1, optimizer="sgd", batch_size=(1, 500), noise_scale=20)


def a_column_of_labels(make, tmp_path, monkeypatch):
    clone(NET).fit(X, Y[:, None])


def a_column_of_labels_in_a_search(make, tmp_path, monkeypatch):
    LRGridSearchCV(NET, lrs=[0.01], cv=2).fit(X, Y[:, None])


def not_stacked(make, tmp_path, monkeypatch):
    net = OwnBatches(MLP, module__hidden=(4,), max_epochs=1, random_state=0)
    with sklr.stacked(verbose=1):
        GridSearchCV(net, {"lr": [0.01, 0.1]}, cv=2).fit(X, Y)


OF_ALL_STRATEGIES = {diverged: exceptions.DivergedWarning, refit_diverged: exceptions.DivergedWarning}
CASES = [(case, make, kind) for case, kind in OF_ALL_STRATEGIES.items() for make in STRATEGIES] + [
    (diverged_in_a_pipeline_of_workers, "grid", exceptions.DivergedWarning),
    (edge, "grid", exceptions.EdgeOfRangeWarning),
    (some_failed, "grid", FitFailedWarning),
    (trial_caught, "optuna", FitFailedWarning),
    (journal_repaired, "grid", exceptions.StorageWarning),
    (out_of_memory, "grid", exceptions.OutOfMemoryWarning),
    (far, "grid", exceptions.TransferWarning),
    (above_the_noise_scale, "grid", exceptions.TransferWarning),
    (not_stacked, "grid", UserWarning),
    (a_column_of_labels, "grid", DataConversionWarning),
    (a_column_of_labels_in_a_search, "grid", DataConversionWarning),
]


@pytest.mark.one_fast
@pytest.mark.parametrize(("case", "make", "kind"), CASES)
def test_a_warning_points_at_the_users_line(case, make, kind, tmp_path, monkeypatch):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        case(STRATEGIES[make], tmp_path, monkeypatch)
    ours = [w for w in caught if w.category is kind and "non-finite" not in str(w.message)]
    assert ours
    lines, start = inspect.getsourcelines(case)
    for warning in ours:
        assert warning.filename == __file__, warning
        assert "fit(" in (line := lines[warning.lineno - start]) or "transfer_lr(" in line


def test_all_warnings_go_through_one_function():
    for path in ROOT.rglob("*.py"):
        calls = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
        direct = [
            node.lineno for node in calls if ast.unparse(node.func) in ("warnings.warn", "warnings.warn_explicit")
        ]
        assert not direct or path.name == "warnings.py", (path, direct)


deep = partial(warn, "here", UserWarning)


def calls_of(name, inner):
    """Return a function of a module of that name, which calls `inner`."""
    module = types.ModuleType(name)
    module.inner = inner
    exec(compile("def outer():\n    inner()", f"{name}.py", "exec"), vars(module))
    return module.outer


@pytest.mark.parametrize("between", [["sklr"], ["sklr.search", "sklearn.base", "contextlib"], ["joblib", "threading"]])
def test_libraries_in_between_are_passed_over_and_nobody_else(between):
    def raised(call):
        with pytest.warns(UserWarning, match="here") as caught:
            call()
        return caught[0].filename

    call = deep
    for name in between:
        call = calls_of(name, call)
    assert raised(call) == __file__
    assert raised(calls_of("sklearn", calls_of("sklr_extension", call))) == "sklr_extension.py"


def test_without_any_line_of_the_users_the_outermost_one_is_named():
    with ThreadPoolExecutor(1) as threads, pytest.warns(UserWarning, match="here") as caught:
        threads.submit(deep).result()
    assert caught[0].filename == threading.__file__
