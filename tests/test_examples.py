"""Every example runs as it is, draws its picture, and shows what its text says."""

import re
import runpy
import socket
from pathlib import Path
from urllib.error import URLError

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from joblib.externals.loky import get_reusable_executor
from packaging.version import Version
from sklearn import datasets
from sklearn.base import clone

import sklr

pytestmark = pytest.mark.slow

EXAMPLES = Path(__file__).parents[1] / "examples"
PLOTS = sorted(EXAMPLES.glob("plot_*.py"))


def check_first_search(names):
    assert names["search"].score(names["X_test"], names["y_test"]) > 0.93


def check_schedules(names):
    np.testing.assert_array_equal(names["used"].lrs, names["planned"].lrs)
    assert names["net"].history_[-1, "lr"] < 0.1 / 8, "the plateau has halved the lr three times or more"


def check_three_searches(names):
    best = [search.best_score_ for search in names["searches"].values()]
    assert np.ptp(best) < 0.02, best


def check_more_than_the_lr(names):
    wanted = {"lr", "optimizer__momentum", "optimizer__weight_decay"}
    wanted |= {"batch_size", "schedule", "module__n_layers", "module__width", "module__dropout"}
    assert set(names["search"].best_params_) == wanted
    assert names["search"].best_score_ > 0.95


def check_nested_cv(names):
    assert names["chosen"][0].lr_param_ == "neuralnetclassifier__lr"
    assert names["outside"].mean() > 0.95


def check_diverged(names):
    assert names["grid"].cv_results_["rank_test_score"].tolist().index(2) == names["lrs"].index(1e30)
    assert names["search"].cv_results_["rank_test_score"][-1] == len(names["lrs"])
    assert "1 of 5 candidates diverged (3 runs)" in str(names["caught"][0].message)


def check_regression(names):
    assert names["mse"].shape == (4, 8, 60)
    # by epoch: 0.05 x 0.95^59 at the end of the first way; the stages of the last one
    np.testing.assert_allclose(names["lr"][0, -1], 0.05 * 0.95**59)
    np.testing.assert_allclose(names["lr"][3, [29, 30]], [0.03, 0.01])


def check_transfer(names):
    standard, *carried = names["check"].verdicts
    assert standard == "fails", str(names["check"])
    assert len(carried) == 3, "muP, the batch, and both"
    assert "fails" not in carried, str(names["check"])
    assert [names["coordinates"][mup].passed for mup in (False, True)] == [False, True]


def check_range_test(names):
    test, search = names["test"], names["search"]
    assert set(test.suggestions) == {"minimum", "steep", "valley", "slide", "midway"}
    assert max(test.suggestions.values()) < test.edge
    low, high = search.range_test_.search_range
    assert low <= search.best_lr_ <= high


def check_max_steps(names):
    assert (names["result"].bound, names["result"].edge) == ("patience", None)
    assert names["low"].edge == "high"
    assert names["result"].switched_off == ("schedule='cosine'", "weight_decay=0.0001", "dropout")


def check_warmup(names):
    result = names["result"]
    assert result.best_lr < result.unstable_lr
    if Version(torch.__version__) >= Version("2.13"):  # it is a matter of rounding, and older ones round otherwise
        assert result.n_steps > 0, "this net is unstable without a warmup, and stable with one"
    assert np.median(result.lr_loss[result.lrs == result.unstable_lr][0, :, -1]) > 1


def check_sweep_then_refine(names):
    search, grid, short = names["search"], names["grid"], names["short"]
    assert [len(places) for places in search.rounds_] == [10, 4, 4]
    assert len(grid.cv_results_["params"]) == 18
    assert search.best_score_ > grid.best_score_
    assert short.best_lr_ > 1e-3, "beyond the range that was asked for"


def check_images(names, monkeypatch):
    assert names["what"] == "digits (SKLR_OFFLINE is set)"
    assert names["search"].engine_ == "stacked"
    assert names["search"].score(names["X_test"], names["y_test"]) > 0.95
    monkeypatch.delenv("SKLR_OFFLINE")
    pixels = np.arange(20 * 3072).reshape(20, 3072) % 256

    def fetch(name, **params):
        assert name == "CIFAR_10_small"
        return pixels, np.array([str(i % 10) for i in range(20)])

    monkeypatch.setattr(datasets, "fetch_openml", fetch)
    X, y, classes, what = names["load_images"](n_images=10)
    rows = np.random.default_rng(0).permutation(20)[:10]
    assert (X.shape, what, classes[0]) == ((10, 3, 32, 32), "CIFAR-10", "airplane")
    np.testing.assert_array_equal(X[:, 0, 0, 0], pixels[rows, 0] / 255)
    np.testing.assert_array_equal(X[:, 2, 31, 31], pixels[rows, -1] / 255)
    np.testing.assert_array_equal(y, rows % 10)


def check_interrupted(names):
    search, whole = names["search"], names["whole"]
    assert names["sessions"][0] == 5
    assert len(search.cv_results_["params"]) == 16
    assert search.cv_results_["params"] == whole.cv_results_["params"]
    np.testing.assert_array_equal(search.cell_scores_, whole.cell_scores_)


def check_several_processes(names):
    assert [len(np.unique(processes)) for processes, _ in names["spread"].values()] == [1, 2]
    for accuracies in (*names["accuracies"].values(), names["runs"](names["search"], "accuracy")):
        np.testing.assert_array_equal(accuracies, names["one_by_one"])
    shares = [(names["runs"](names["search"], "process") == pid) for pid in names["names"]]
    assert sum(shares).all(), "each run by one of the two"
    assert 6 <= shares[0].sum() < 18, "what was through when it was killed"


def check_accelerate(names):
    assert names["stacking"].n_stacked == 50
    assert names["difference"] < 0.01
    assert names["refused"].n_single == 4


def check_augmented(names):
    search, train = names["search"], names["train"]
    assert (search.engine_, search.n_splits_, search.n_seeds) == ("stacked", 1, 3)
    assert search.score(names["test"], names["test"].targets) > 0.85
    assert 1 <= names["n_read"] / (4 * 8 * len(train)) < 1.1, "three seeds, the final training, and some to look at"
    assert names["n_alone"] > 5 * names["n_read"]
    assert "in this one fold" in search.summary()


def check_lopsided(names):
    low, high = names["search"].lr_interval_
    assert low < names["truth"].best_lr_ < high
    curve, quadratic = names["curve"], [names[part] for part in ("square", "linear", "constant")]
    misses = np.abs(np.polyval(quadratic, np.log10(curve.lr)) - curve.mean) / curve.se
    assert np.median(misses[: curve.best + 1]) > 3, misses


CHECKS = {
    "plot_01_first_search": check_first_search,
    "plot_02_schedules": check_schedules,
    "plot_03_three_searches": check_three_searches,
    "plot_04_more_than_the_lr": check_more_than_the_lr,
    "plot_05_pipeline_and_nested_cv": check_nested_cv,
    "plot_06_diverged_runs": check_diverged,
    "plot_07_regression_schedules": check_regression,
    "plot_08_range_test": check_range_test,
    "plot_09_transfer": check_transfer,
    "plot_10_how_long_to_train": check_max_steps,
    "plot_11_warmup": check_warmup,
    "plot_12_sweep_then_refine": check_sweep_then_refine,
    "plot_13_images": check_images,
    "plot_14_interrupted": check_interrupted,
    "plot_15_several_processes": check_several_processes,
    "plot_16_accelerate": check_accelerate,
    "plot_17_augmented_images": check_augmented,
    "plot_18_lopsided_curve": check_lopsided,
}


@pytest.mark.parametrize("path", PLOTS, ids=lambda path: path.stem)
def test_an_example_runs_and_shows_what_it_says(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(plt, "show", lambda: None)
    monkeypatch.setenv("SKLR_OFFLINE", "1")
    get_reusable_executor().shutdown()  # the workers of an earlier test cannot import what the example writes
    names = runpy.run_path(str(path), run_name="__main__")
    plt.close("all")
    check = CHECKS[path.stem]
    check(names, monkeypatch) if check is check_images else check(names)
    assert (tmp_path / f"{path.stem}.png").stat().st_size > 10_000


def test_without_a_network_the_images_are_digits_and_it_says_why(monkeypatch, tmp_path):
    source = (EXAMPLES / "plot_13_images.py").read_text(encoding="utf-8").partition("X, y, names, what =")[0]
    names = {}
    exec(compile(source, "plot_13_images.py", "exec"), names)

    def no_network(request):
        assert "cifar_10_small" in request.full_url.lower()
        assert socket.getdefaulttimeout() == 5
        raise URLError("no network")

    monkeypatch.delenv("SKLR_OFFLINE", raising=False)
    monkeypatch.setenv("SCIKIT_LEARN_DATA", str(tmp_path))
    monkeypatch.setattr("sklearn.datasets._openml.urlopen", no_network)
    monkeypatch.setattr("sklearn.datasets._openml.time.sleep", lambda seconds: None)
    X, _, _, what = names["load_images"]()
    assert X.shape == (1200, 1, 8, 8)
    assert what == "digits (<urlopen error no network>)"
    assert socket.getdefaulttimeout() is None


def test_the_examples_are_numbered_and_listed():
    listing = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    for number, path in enumerate(PLOTS, start=1):
        title = path.read_text(encoding="utf-8").splitlines()[1]
        assert path.name.startswith(f"plot_{number:02}_")
        assert title.startswith(f"{number}. "), title
    assert re.findall(r"\((plot_\w+\.py)\)", listing) == [path.name for path in PLOTS]


def test_the_demo_finds_a_good_lr_and_the_same_one_again(tmp_path, capsys):
    demo = runpy.run_path(str(EXAMPLES / "demo.py"))
    picture = tmp_path / "curve.png"
    search = demo["main"](str(picture))
    said = capsys.readouterr().out
    assert search.cell_scores_.shape == (11, 5)
    assert search.best_score_ >= 0.96
    assert f"Chosen lr: {search.best_lr_:.3g}, cross-validated accuracy {search.best_score_:.3f}." in said
    assert picture.stat().st_size > 10_000
    X, y = datasets.load_digits(return_X_y=True)
    with pytest.warns(sklr.DivergedWarning):
        again = clone(search).fit(X / 16, y)
    assert again.best_lr_ == search.best_lr_
    np.testing.assert_array_equal(again.cell_scores_, search.cell_scores_)
