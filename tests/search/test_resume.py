"""A stored search is gone on with for more, and only with the same data, estimator and folds, whatever these hold."""

import importlib.util
import json
import re
import sqlite3
import sys
from functools import partial
from pathlib import Path

import numpy as np
import optuna
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from killable import Slow, X, Y, comparable
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.exceptions import StorageInternalError
from optuna.storages._rdb.models import BaseModel
from optuna.storages.journal import JournalFileBackend, JournalStorage
from scipy import sparse
from sklearn.model_selection import GroupKFold, KFold
from sqlalchemy.exc import OperationalError, PendingRollbackError

from sklr import BayesSearchCV, LRGridSearchCV, OptunaSearchCV, StorageError, StorageWarning, StudyError, load_search
from sklr.search.storage import workers
from sklr.search.storage.describe import describe, said
from sklr.search.storage.fingerprint import MAY_CHANGE, _entries_of, candidate_key, differences, may_change
from sklr.search.storage.open import may_pass, patiently

GUIDE = Path(__file__).parents[2] / "docs" / "guide" / "cluster.rst"
KEPT = {"cv": 3, "random_state": 0, "refit": False, "study_name": "s", "resume": True}


class Counted(Slow):
    """Counts its fits."""

    fits = 0

    def __init__(self, lr=0.1, given=None, verbose=0):
        self.lr, self.given, self.verbose = lr, given, verbose

    def fit(self, X, y, sample_weight=None, note=None):
        Counted.fits += 1
        self.classes_, self.mean_ = np.unique(y), 0.0
        return self

    def score(self, X, y, sample_weight=None):
        return super().score(X, y)


def fits_of(search, *data, **params):
    before = Counted.fits
    search.fit(*(data or (X, Y)), **params)
    return Counted.fits - before


# ------------------------------------------------------------------------------------------- whole values are compared
def closed_over(value):
    return lambda x, X=None, y=None: x * value


class Holder:
    def __init__(self, value):
        self.value = value

    def __repr__(self):
        return "Holder"

    def method(self):
        return self.value


class Slots(Holder):
    __slots__ = ("value",)


def changed_in_the_middle(size=2000):
    """Return two tensors that are printed alike."""
    first, second = torch.ones(size), torch.ones(size)
    second[size // 2] = 50.0
    return first, second


WRAPPINGS = {
    "itself": lambda value: value,
    "list": lambda value: [1, [value]],
    "tuple": lambda value: (value,),
    "dict": lambda value: {"a": {"b": value}},
    "set": lambda value: {tuple(np.asarray(value).tolist())},
    "array": lambda value: np.asarray(value),
    "half": lambda value: value.to(torch.bfloat16),
    "sparse": lambda value: value.to_sparse(),
    "scipy": lambda value: sparse.csr_array(np.atleast_2d(np.asarray(value))),
    "long list": lambda value: np.asarray(value).tolist(),
    "text": lambda value: str(np.asarray(value).tolist()),
    "objects": lambda value: np.array([[1, value.tolist()], None], dtype=object),
    "table": lambda value: pd.DataFrame({"a": np.asarray(value), "b": "x"}),
    "column": lambda value: pd.Series(np.asarray(value)),
    "closure": closed_over,
    "default": lambda value: eval("lambda x=value: x", {"value": value}),
    "global": lambda value: eval("lambda: weight", {"weight": value}),
    "partial": lambda value: partial(print, end=value),
    "object": Holder,
    "slots": Slots,
    "method": lambda value: Holder(value).method,
    "deep": lambda value: Holder([Holder(Holder(Holder(Holder(value))))]),
    "estimator": lambda value: Counted(given=value),
    "module": lambda value: torch.nn.ParameterList([torch.nn.Parameter(value)]),
    "buffer": lambda value: torch.nn.CrossEntropyLoss(weight=value),
    "parameter": torch.nn.Parameter,
}


@pytest.mark.parametrize("wrap", WRAPPINGS.values(), ids=WRAPPINGS)
def test_a_value_that_has_changed_in_the_middle_is_another(wrap):
    first, second = changed_in_the_middle()
    assert describe(wrap(first)) == describe(wrap(first.clone())) != describe(wrap(second))
    assert said(describe(wrap(first))).isascii()
    assert candidate_key({"lr": 0.1, "x": wrap(first)}) != candidate_key({"lr": 0.1, "x": wrap(second)})


@pytest.mark.slow
@given(
    st.recursive(
        st.one_of(st.integers(), st.floats(allow_nan=False), st.text(), st.booleans(), st.none(), st.binary()),
        lambda inner: st.one_of(st.lists(inner), st.dictionaries(st.text(), inner)),
        max_leaves=40,
    ).flatmap(lambda value: st.tuples(st.just(value), st.one_of(st.just(value), st.integers(), st.lists(st.text()))))
)
def test_texts_are_equal_for_equal_values_and_for_them_alone(pair):
    first, second = pair
    assert (describe(first) == describe(second)) == (repr(first) == repr(second))
    assert len(describe(first)) < 300


def test_equal_values_have_one_text_whatever_they_are_made_like():
    wide = pd.DataFrame({"a": [1, 2], "b": [3, 4]})
    grown = pd.DataFrame({"a": [1, 2]})
    grown["b"] = [3, 4]
    for one, other in [
        (wide, grown),
        (np.arange(6).reshape(2, 3), np.asfortranarray(np.arange(6).reshape(2, 3))),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
        (closed_over(3), closed_over(3)),
        (sparse.coo_array(np.eye(3)), sparse.coo_array(np.eye(3))),
        (np.float64(0.5), 0.5),
    ]:
        assert describe(one) == describe(other)
    for one, other in [(1, 1.0), (np.ones(3), np.ones(3, "float32")), ([1, 2], (1, 2)), (lambda x: x, lambda x: -x)]:
        assert describe(one) != describe(other)


WEIGHTS = np.ones(150)
SWAPPED = np.r_[1, 0, 2:150]
CHANGES = {
    "X": (lambda: (np.where(np.arange(150)[:, None] == 75, X + 1, X), Y, {}), "data: X has other values than before"),
    "rows swapped": (lambda: (X[SWAPPED], Y, {}), "data: X has other values than before"),
    "float32": (lambda: (X.astype("float32"), Y, {}), r"data: X is .*float32, .*was .*float64"),
    "y": (lambda: (X, np.where(np.arange(150) == 75, 0, Y), {}), "data: y has other values"),
    "y of floats": (lambda: (X, Y.astype(float), {}), "data: y is .*float64.*was .*int64"),
    "a table": (lambda: (pd.DataFrame(X), Y, {}), "data: X is .*DataFrame"),
    "a tensor": (lambda: (torch.as_tensor(X), Y, {}), "data: X is .*Tensor"),
    "weights": (lambda: (X, Y, {"sample_weight": WEIGHTS * (np.arange(150) != 75)}), r"data: fit\(sample_weight=...\)"),
    "no weights": (lambda: (X, Y, {"sample_weight": None}), r"data: fit\(sample_weight=...\) is not there"),
    "anything": (lambda: (X, Y, {"note": [1, torch.ones(3)]}), r"data: fit\(note=...\) is .*, was not there"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_data_that_have_changed_are_noticed(tmp_path, change):
    search = LRGridSearchCV(Counted(), lrs=[0.1, 0.2], storage=tmp_path / "s.log", **KEPT)
    search.fit(X, Y, sample_weight=WEIGHTS)
    make, message = CHANGES[change]
    features, targets, params = make()
    with pytest.raises(StudyError, match=f"The study 's' belongs to a different search.* {message}") as error:
        search.fit(features, targets, **{"sample_weight": WEIGHTS, **params})
    assert not re.search(r"[0-9a-f]{16}", str(error.value)), "a hash says nothing to a user"


def test_a_row_of_a_table_and_its_groups_are_noticed(tmp_path):
    table = pd.DataFrame({"a": X[:, 0], "b": np.where(Y == 0, "x", "y")})
    search = LRGridSearchCV(Counted(), lrs=[0.1], storage=tmp_path / "s.log", **{**KEPT, "cv": GroupKFold(3)})
    search.fit(table, Y, groups=Y)
    with pytest.raises(StudyError, match="data: X has other values"):
        search.fit(table.iloc[SWAPPED], Y, groups=Y)
    with pytest.raises(StudyError, match=r"data: fit\(groups=...\) has other values"):
        search.fit(table, Y, groups=Y[::-1])


@pytest.mark.parametrize("wrap", WRAPPINGS.values(), ids=WRAPPINGS)
def test_a_parameter_that_has_changed_in_the_middle_is_named(tmp_path, wrap):
    first, second = changed_in_the_middle()
    for value, refused in ((first, False), (first.clone(), False), (second, True)):
        search = LRGridSearchCV(Counted(given=wrap(value)), lrs=[0.1], storage=tmp_path / "s.log", **KEPT)
        if refused:
            with pytest.raises(StudyError, match=r"estimator: given(__given)? has other values"):
                search.fit(X, Y)
        else:
            search.fit(X, Y)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"cv": 4}, r"folds and seeds: cv is StratifiedKFold\(n_splits=4\), was StratifiedKFold\(n_splits=3\)"),
        ({"random_state": 1}, "folds and seeds: random_state is 1, was 0"),
        (
            {"cv": KFold(3, shuffle=True, random_state=1)},
            r"cv is KFold\(n_splits=3, shuffle=True, random_state=1\), was",
        ),
        ({"n_seeds": 2}, "search parameters: n_seeds is 2, was 1"),
        ({"scoring": closed_over(3)}, "search parameters: scoring is .*closed_over"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_setting_of_the_folds_or_the_search_is_named(tmp_path, changed, message):
    search = LRGridSearchCV(Counted(), lrs=[0.1], storage=tmp_path / "s.log", **KEPT).fit(X, Y)
    with pytest.raises(StudyError, match=message):
        search.set_params(**changed).fit(X, Y)


# ---------------------------------------------------------------------------------------------------- going on for more
def optuna_of(n, **params):
    return OptunaSearchCV(Counted(), n_trials=n, **{**KEPT, **params})


def bayes_of(n, **params):
    return BayesSearchCV(Counted(), n_iter=n, **{**KEPT, **params})


def lrs_of(search):
    return [params["lr"] for params in search.cv_results_["params"]]


@pytest.mark.one_fast
@pytest.mark.parametrize("make", [optuna_of, bayes_of])
@pytest.mark.parametrize("counts", [(3, 5), (4, 6), (6, 20, 26), (5, 3)], ids=str)
@pytest.mark.parametrize("file", ["s.db", "s.log"])
def test_more_trials_go_on_from_those_there_are(tmp_path, make, counts, file):
    kept = []
    for n in counts:
        search = make(n, storage=tmp_path / file)
        assert fits_of(search) == 3 * max(0, n - len(kept))
        assert lrs_of(search)[: len(kept)] == kept[:n]
        kept = max(kept, lrs_of(search), key=len)
        assert len(set(kept)) == len(kept)
        assert len(search.study_.trials) == len(kept)


@pytest.mark.filterwarnings("ignore:Choices for a categorical distribution:UserWarning")
@pytest.mark.parametrize("file", ["s.db", "s.log"])
def test_optunas_choices_need_not_be_what_json_keeps(tmp_path, file):
    shapes = ((8,), (4, 4), None)  # JSON gives tuples back as lists, which are none of the choices
    space = {"lr": FloatDistribution(1e-3, 1.0, log=True), "given": CategoricalDistribution(shapes)}
    for n, n_fits in ((5, 15), (12, 21)):
        search = optuna_of(n, param_distributions=space, storage=tmp_path / file)
        assert fits_of(search) == n_fits
    loaded = load_search(tmp_path / file, "s")
    assert search.cv_results_["params"] == loaded.cv_results_["params"]
    assert {params["given"] for params in loaded.cv_results_["params"]} == set(shapes)
    assert fits_of(loaded.set_params(estimator=Counted(), n_trials=14, refit=False)) == 6


@pytest.mark.one_fast
@pytest.mark.parametrize("make", [optuna_of, bayes_of])
def test_broken_off_while_going_on_it_ends_the_same(tmp_path, make):
    path = tmp_path / "s.log"
    make(4, storage=path).fit(X, Y)
    whole = make(12, storage=path).fit(X, Y)
    trials = [i for i, line in enumerate(path.read_bytes().splitlines()) if b"sklr:outcome" in line]
    lines = path.read_bytes().splitlines(keepends=True)
    for n_left in (2, 4, 9):
        path.write_bytes(b"".join(line for i, line in enumerate(lines) if i not in trials[n_left:]))
        again = make(12, storage=path)
        assert fits_of(again) == 3 * (12 - n_left)
        assert repr(comparable(again.cv_results_)) == repr(comparable(whole.cv_results_))


@pytest.mark.one_fast
@pytest.mark.parametrize("file", ["s.db", "s.log"])
def test_a_grid_grows_at_any_place(tmp_path, file):
    def fits(**params):
        return fits_of(LRGridSearchCV(Counted(), storage=tmp_path / file, **KEPT, **params))

    assert fits(lrs=[0.1, 0.3]) == 6
    assert fits(lrs=[0.3, 0.2, 0.1]) == 3
    assert fits(param_grid={"lr": [0.01, 0.1, 0.2, 0.3]}) == 3
    assert fits(param_grid={"lr": [0.1], "verbose": [0, 1]}) == 6  # other candidates
    assert fits(lr_range=(0.01, 1.0), n_lrs=3) == 3  # 0.01 and 0.1 are known
    assert fits(lr_range=(0.01, 1.0), n_lrs=3, rounds=2) == 12
    assert fits(lrs=[0.1]) == 0


@pytest.mark.parametrize("samplers", [("random", "tpe", "gp"), ("tpe", "sobol", "random")], ids="-".join)
def test_another_sampler_goes_on_from_what_the_first_has_tried(tmp_path, samplers):
    kept = []
    for sampler, n in zip(samplers, (4, 12, 14), strict=True):
        search = optuna_of(n, sampler=sampler, storage=tmp_path / "s.log")
        assert fits_of(search) == 3 * (n - len(kept))
        assert lrs_of(search)[: len(kept)] == kept
        kept = lrs_of(search)
        assert fits_of(optuna_of(n, sampler=sampler, storage=tmp_path / "s.log")) == 0
    assert len(set(kept)) == 14


@given(st.text("ab, ", max_size=200), st.text("ab, ", max_size=200), st.text("ab, ", max_size=200))
def test_what_differs_is_shown_however_far_behind_it_stands(start, one, other):
    said = differences({"estimator": {"x": start + one}}, {"estimator": {"x": start + other}})
    assert len(said) == (one != other)
    for text in said:
        mine, _, theirs = text.removeprefix("estimator: x is ").partition(", was ")
        assert mine != theirs
        assert len(text) < 220


JOB = """
from dataclasses import dataclass
import torch
from killable import Slow

FACTOR = 3

class Net(Slow):
    fits = 0
    def __init__(self, lr=0.1, given=None):
        self.lr, self.given = lr, given
    def fit(self, X, y):
        type(self).fits += 1
        return super().fit(X, y)
    class Inner:
        pass

class Layer(torch.nn.Linear):
    pass

@dataclass
class Setting:
    value: int = 2

class Opaque:
    def __reduce_ex__(self, protocol):
        raise TypeError

def weigh(x, by=Net):
    return x * FACTOR, __name__
"""
FROM_A_SCRIPT = {
    "class": lambda job: job.Net,
    "nested class": lambda job: [{"a": job.Net.Inner}],
    "function": lambda job: (job.weigh,),
    "method": lambda job: job.Net().fit,
    "partial": lambda job: partial(job.weigh, by=job.Layer),
    "estimator": lambda job: job.Net(given={"layer": job.Layer}),
    "dataclass": lambda job: {job.Setting(3).value: job.Setting(3)},
    "module": lambda job: torch.nn.Sequential(job.Layer(2, 2)),
    "cannot be pickled": lambda job: job.Opaque(),
    "the module itself": lambda job: job,
}


@pytest.fixture(params=["job", "package.job"])
def script_and_module(request, tmp_path, monkeypatch):
    """Return a script as it is while it runs, and as another one imports it."""
    path = tmp_path.joinpath(*request.param.split(".")).with_suffix(".py")
    path.parent.mkdir(exist_ok=True)
    if path.parent != tmp_path:
        (path.parent / "__init__.py").touch()
    path.write_text(JOB)
    both = []
    for name in ("__main__", request.param):
        spec = importlib.util.spec_from_file_location(name, path)
        both.append(importlib.util.module_from_spec(spec))
        monkeypatch.setitem(sys.modules, name, both[-1])
        spec.loader.exec_module(both[-1])
    return both


def test_a_scripts_names_are_those_of_its_module(script_and_module):
    script, module = script_and_module
    for make in FROM_A_SCRIPT.values():
        torch.manual_seed(0)
        made = make(script)
        torch.manual_seed(0)
        assert describe(made) == describe(make(module))
        assert "__main__" not in describe(made)
    assert describe(script.Net) != describe(script.Layer)
    module.FACTOR = 4
    assert describe(script.weigh) != describe(module.weigh)


@pytest.mark.parametrize("file", ["s.db", "s.log"])
def test_a_search_goes_on_from_another_script(tmp_path, script_and_module, file):
    script, module = script_and_module
    for job, fits in ((script, 12), (module, 0)):
        space = {"lr": [0.1, 0.2], "given": [job.Net, job.weigh]}
        LRGridSearchCV(job.Net(given=partial(job.weigh)), space, storage=tmp_path / file, **KEPT).fit(X, Y)
        assert job.Net.fits == fits
    for job, n, fits in ((script, 3, 21), (module, 5, 6)):
        space = {"lr": (0.1, 0.9), "given": [job.Net, None]}
        kept = {**KEPT, "study_name": "optuna", "storage": tmp_path / file}
        OptunaSearchCV(job.Net(), space, n_trials=n, **kept).fit(X, Y)
        assert job.Net.fits == fits


def test_the_spaces_of_bayes_grow_each_for_itself(tmp_path):
    def search(*counts):
        spaces = [({"lr": (1e-4, 1e-2, "log-uniform")}, counts[0]), ({"lr": (0.1, 1.0, "log-uniform")}, counts[1])]
        return BayesSearchCV(Counted(), spaces, storage=tmp_path / "s.db", **KEPT)

    assert fits_of(search(3, 3)) == 18
    assert fits_of(search(5, 4)) == 9
    assert fits_of(search(5, 3)) == 0


def test_what_may_change_does_and_the_guide_says_so(tmp_path):
    grid = LRGridSearchCV(Counted(), lrs=[0.1, 0.3], storage=tmp_path / "s.db", **KEPT).fit(X, Y)
    grid.set_params(refit=True, select="one_se", confidence=0.8, n_jobs=2, pre_dispatch=4, timeout=60, verbose=0)
    grid.set_params(engine="sequential", estimator__verbose=1, extend=False)
    assert fits_of(grid) == 1  # the refit
    table = GUIDE.read_text().partition("What may change when")[2].partition("`n_trials` and `n_iter` count")[0]
    rows = {kind: " ".join(re.findall(f"^{kind} +(.*)$", table, re.M)) for kind in ("may change", "must be the same")}
    for make in (LRGridSearchCV, BayesSearchCV, OptunaSearchCV):
        search = make(Counted())
        for name in search.get_params(deep=False).keys() - {"estimator"}:
            kind = "may change" if name in may_change(search) else "must be the same"
            assert f"`{name}`" in rows[kind], (name, kind)
    assert {name for names in MAY_CHANGE.values() for name in names} <= set(re.findall(r"`(\w+)`", rows["may change"]))


# --------------------------------------------------------------------------------------------------- changed by someone
JUNK = ["garbage", "[]", "{}", "[[1]]", '[["a",null,"ok","",0,0,0,null,[]]]', 3, None, ["x"]]


@pytest.mark.one_fast
@pytest.mark.parametrize("junk", JUNK, ids=repr)
@pytest.mark.parametrize("key", ["sklr:outcome", "sklr:claim"])
def test_a_trial_that_was_changed_by_hand_is_named(tmp_path, key, junk):
    search = LRGridSearchCV(Counted(), lrs=[0.1, 0.3], storage=tmp_path / "s.db", **KEPT).fit(X, Y)
    with sqlite3.connect(tmp_path / "s.db") as database:
        database.execute(
            "UPDATE trial_user_attributes SET value_json = ? WHERE key = ? AND trial_id = 2", (json.dumps(junk), key)
        )
    database.close()
    with pytest.raises(StudyError, match=f"study 's' cannot be resumed: trial 1 was changed by hand.*{key}"):
        search.fit(X, Y)


@pytest.mark.parametrize(
    ("table", "message"),
    [("trial_user_attributes", "trial 0 has an attribute that is not JSON"), ("study_user_attributes", "not JSON")],
)
def test_attributes_that_are_not_even_json(tmp_path, table, message):
    search = LRGridSearchCV(Counted(), lrs=[0.1, 0.3], storage=tmp_path / "s.db", **KEPT).fit(X, Y)
    with sqlite3.connect(tmp_path / "s.db") as database:
        database.execute(f"UPDATE {table} SET value_json = 'not JSON {{'")
    database.close()
    with pytest.raises(StudyError, match=message):
        search.fit(X, Y)


@pytest.mark.parametrize("key", ["sklr:search", "sklr:candidates"])
def test_a_study_that_was_changed_by_hand(tmp_path, key):
    search = optuna_of(2, storage=tmp_path / "s.db").fit(X, Y)
    search.study_.set_user_attr(key, "garbage")
    with pytest.raises(StudyError, match=f"the attribute '{key}' of the study is not as sklr wrote it"):
        search.fit(X, Y)


# ----------------------------------------------------------------------------------- what is no storage, said at once
def other_tables(path):
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE studies (title TEXT)")
    database.close()


def other_schema(path, version):
    optuna.create_study(storage=f"sqlite:///{path}", study_name="s")
    with sqlite3.connect(path) as database:
        database.execute(f"UPDATE alembic_version SET version_num = '{version}'")
    database.close()


NO_STORAGES = {
    "missing/s.db": (lambda path: None, "there is no folder"),
    "missing/s.log": (lambda path: None, "there is no folder"),
    "file.txt/s.db": (lambda path: path.parent.write_text("a file"), "is not a folder"),
    "folder.db": (lambda path: path.mkdir(), "it is a folder"),
    "folder.log": (lambda path: path.mkdir(), "it is a folder"),
    "text.db": (lambda path: path.write_text("hello" * 500), "it is not an SQLite database"),
    "text.log": (lambda path: path.write_text("epoch 1: 0.5\nepoch 2: 0.6\n"), "it is not an Optuna journal"),
    "other.log": (lambda path: path.write_text('{"level": "INFO"}\n'), "it is not an Optuna journal"),
    "tables.db": (other_tables, "column.*tables are another program's"),
    "older.db": (lambda path: other_schema(path, "v0.9.0.a"), "optuna storage upgrade"),
    "newer.db": (lambda path: other_schema(path, "v99.0.0.a"), "pip install -U optuna"),
}


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
@pytest.mark.parametrize(
    ("name", "as_url"), [(name, as_url) for name in NO_STORAGES for as_url in {False, name.endswith(".db")}]
)
def test_what_cannot_be_a_storage_is_said_at_once_and_left_as_it_is(tmp_path, monkeypatch, name, as_url):
    make, message = NO_STORAGES[name]
    make(tmp_path / name)
    before = (tmp_path / name).read_bytes() if (tmp_path / name).is_file() else None
    monkeypatch.setattr("time.sleep", lambda seconds: pytest.fail("waited"))
    storage = f"sqlite:///{tmp_path / name}" if as_url else tmp_path / name
    with pytest.raises(StorageError, match=rf"storage must be one that can be opened, got .*{message}"):
        LRGridSearchCV(Counted(), lrs=[0.1], storage=storage, **KEPT).fit(X, Y)
    if name.endswith(("text.db", ".log")) and before is not None:
        assert (tmp_path / name).read_bytes() == before


@pytest.mark.parametrize("url", ["sqlit:///lr.db", "postgre://user@host/lr"])
def test_an_unknown_kind_of_database_is_said_with_those_that_there_are(url):
    with pytest.raises(StorageError, match=f"got '{url}'.*begins with the kind of database, as 'sqlite:///lr.db'"):
        LRGridSearchCV(Counted(), lrs=[0.1], storage=url, **KEPT).fit(X, Y)


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
@pytest.mark.parametrize("table", [table.name for table in BaseModel.metadata.sorted_tables])
def test_a_table_of_another_programs_is_said_before_any_training(tmp_path, monkeypatch, table):
    with sqlite3.connect(tmp_path / "s.db") as database:
        database.execute(f"CREATE TABLE {table} (id INTEGER PRIMARY KEY, name TEXT)")
    database.close()
    monkeypatch.setattr("time.sleep", lambda seconds: pytest.fail("waited"))
    monkeypatch.setattr(Counted, "fit", lambda *args: pytest.fail("trained"))
    with pytest.raises(StorageError, match=f"{table}.*tables are another program's: name another database"):
        LRGridSearchCV(Counted(), lrs=[0.1], storage=tmp_path / "s.db", **KEPT).fit(X, Y)


@pytest.mark.parametrize("end", [".db", ".log"])
@pytest.mark.parametrize("length", [251, 300, 5000])
def test_a_name_that_is_too_long_is_said_at_once(tmp_path, monkeypatch, length, end):
    monkeypatch.setattr("time.sleep", lambda seconds: pytest.fail("waited"))
    with pytest.raises(StorageError, match=r"(?s)storage must be one that can be opened.*File name too long|unable to"):
        LRGridSearchCV(Counted(), lrs=[0.1], storage=tmp_path / ("n" * length + end), **KEPT).fit(X, Y)


TROUBLE = {  # SQLite's errors -> whether they may pass when a search begins, and in the middle of it
    "database is locked": (True, True),
    "database table is locked": (True, True),
    "database or disk is full": (True, True),
    "disk I/O error": (True, True),
    "unable to open database file": (False, True),
    "no such column: trials.trial_id": (False, False),
    "table trials has no column named trial_id": (False, False),
    "no such table: trials": (False, False),
    "database disk image is malformed": (False, False),
    "attempt to write a readonly database": (False, False),
}


@pytest.mark.parametrize("said", TROUBLE)
def test_only_what_may_pass_is_waited_for(said, monkeypatch):
    waited = []
    monkeypatch.setattr("time.sleep", waited.append)

    def fails():
        raise OperationalError("SELECT", {}, sqlite3.OperationalError(said))

    for opening, passes in zip((True, False), TROUBLE[said], strict=True):
        waited.clear()
        with pytest.raises((StorageError, OperationalError), match=re.escape(said)) as error:
            patiently(fails, 1e-9 if not passes else 0.06, opening)
        assert opening or error.type is StorageError
        assert may_pass(OperationalError("SELECT", {}, sqlite3.OperationalError(said)), opening) == passes
        assert bool(waited) == passes


def test_a_connection_that_is_lost_between_two_queries_may_come_back():
    """Optuna asks again in another way after the first error, within the same transaction."""
    lost = StorageInternalError("An exception is raised during the commit.")
    lost.__cause__ = PendingRollbackError("Can't reconnect until invalid transaction is rolled back.")
    fails = iter([lost])

    def ask():
        for error in fails:
            raise error
        return "answer"

    assert patiently(ask) == "answer"


@pytest.mark.parametrize("url", ["foo://user:secret@host/lr", "not a url://"])
def test_addresses_that_name_no_database(url, monkeypatch):
    monkeypatch.setattr("time.sleep", lambda seconds: pytest.fail("waited"))
    with pytest.raises(StorageError, match="storage must be one that can be opened") as error:
        LRGridSearchCV(Counted(), lrs=[0.1], storage=url, **KEPT).fit(X, Y)
    assert "secret" not in str(error.value)


# -------------------------------------------------------------------------------------- two processes and one journal
@pytest.mark.parametrize("host", ["here", "elsewhere"])
def test_a_second_process_on_a_journal_is_told(tmp_path, monkeypatch, host):
    search = LRGridSearchCV(Counted(), lrs=[0.1], storage=tmp_path / "s.log", **KEPT).fit(X, Y)
    study = optuna.load_study(study_name="s", storage=JournalStorage(JournalFileBackend(str(tmp_path / "s.log"))))
    assert study.user_attrs["sklr:at work"] is None, "it signs off"
    name, pid = (workers.this_machine(), 1) if host == "here" else ("elsewhere", 77)
    study.set_user_attr("sklr:at work", f"{name} {pid} {workers._birth(pid)} 4 5")
    search.set_params(lrs=[0.1, 0.2])
    if host == "here":
        with pytest.raises(
            StudyError, match=r"Process 1 is working on the study 's'.*Only a database server can share"
        ):
            search.fit(X, Y)
    else:
        with pytest.warns(StorageWarning, match="Process 77 on 'elsewhere' began .*both train every candidate"):
            search.fit(X, Y)


LONG = {
    "lr": (1e-4, 1.0, "log-uniform"),
    "given": ["a value that makes the whole space too long to be read in a single message of an error", "b"],
    "batch_size": [16, 32],
}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"batch_size": [16, 64]}, r"\['batch_size'\] is \[16, 64\], was \[16, 32\]"),
        ({"batch_size": [16, 64], "lr": (1e-4, 2.0)}, r"\['lr'\] is .*\['batch_size'\] is"),
        ({"warm": [1]}, r"\['warm'\] is \[1\], was not there"),
    ],
)
def test_of_a_long_dict_the_entry_that_differs_is_named(change, words):
    heads = [
        {"search parameters": {"s": describe(space)}, "entries": {"search parameters": _entries_of({"s": space})}}
        for space in (LONG | change, LONG)
    ]
    [text] = differences(*heads)
    assert re.search(f"^search parameters: s{words}", text), text
    assert "s is" not in text.partition(":")[2]
    assert differences({**heads[0], "entries": {}}, heads[1])[0].startswith("search parameters: s is")  # an older study


def test_entries_of_lists_of_spaces_are_numbered():
    entries = _entries_of({"search_spaces": [LONG, {"lr": [0.1]}], "n_points": 1, "short": {"a": 1}})
    assert list(entries) == ["search_spaces"]
    assert entries["search_spaces"]["search_spaces[1]['lr']"] == "[0.1]"
