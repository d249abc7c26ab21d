"""The bar of a search says how far it is, and is silent unless asked for."""

import threading
import time

import nbformat
import numpy as np
import pytest
import rich.console
import rich.progress
from matplotlib.figure import Figure
from nbclient import NotebookClient
from strategies import CV, X, Y, net

from sklr.search import _progress
from sklr.search._live_curve import LiveCurve


@pytest.mark.one_fast
@pytest.mark.parametrize("engine", ["stacked", "sequential"])
def test_it_ends_with_all_trials_and_the_best_score(make, engine, capsys):
    search = make(net(), cv=CV, random_state=0, engine=engine, refit=False, progress=True).fit(X, Y)
    n_trials = len(search.cv_results_["params"])
    printed = capsys.readouterr().out
    assert f" {n_trials}/" in printed
    assert f"best {search.best_score_:.4g}" in printed


def test_epochs_are_told(make, monkeypatch):
    told = []
    monkeypatch.setattr(_progress.Progress, "epoch", lambda self, n_epochs, scores: told.append(n_epochs))
    make(net(), cv=CV, random_state=0, refit=False, progress=True).fit(X, Y)
    assert told[:4] == [1, 2, 3, 4]


def test_nothing_is_printed_by_default(make, capsys):
    make(net(), cv=CV, random_state=0, refit=False).fit(X, Y)
    assert capsys.readouterr().out == ""


def test_bad_values_are_refused(make):
    with pytest.raises(ValueError, match="progress must be True or False, got 'yes'"):
        make(net(), progress="yes").fit(X, Y)


def test_the_curve_of_a_notebook_has_all_candidates_whatever_trains_them(make, monkeypatch):
    """`ended` is what the search has found, `scores` what those in training have come to, epoch by epoch."""
    drawn, epochs = [], []
    monkeypatch.setattr(_progress, "can_draw", lambda console: True)
    monkeypatch.setattr(LiveCurve, "draw", lambda self, at_once=False: drawn.append((list(self.ended), self.scores)))
    follow = LiveCurve.follow
    monkeypatch.setattr(LiveCurve, "follow", lambda self, n, scores: epochs.append(n) or follow(self, n, scores))
    search = make(net(), cv=CV, random_state=0, refit=False, progress=True).fit(X, Y)
    ended, scores = drawn[-1]
    found = zip(search.cv_results_["param_lr"], search.cv_results_["mean_test_score"], strict=True)
    assert sorted(ended) == sorted(found)
    assert scores is None
    assert epochs[:4] == [1, 2, 3, 4]


def test_the_curve_marks_the_best_and_what_is_in_training():
    curve, figure = LiveCurve(), Figure()
    curve.ended, curve.in_training = [(0.1, 0.9), (0.01, 0.5), (1.0, float("nan"))], [0.2, float("nan")]
    curve.epoch, curve.scores = 3, np.array([0.7, 0.8])
    ax = figure.subplots()
    curve.plot(ax)
    ended, training, best = ax.lines
    assert ended.get_xdata().tolist() == [0.01, 0.1, 1.0]
    assert training.get_label() == "after epoch 3"
    assert best.get_label() == "best so far: 0.1"
    assert (best.get_xdata(), best.get_ydata()) == (0.1, 0.9)
    assert ax.get_xscale() == "log"
    assert curve._as_png().startswith(b"\x89PNG")


@pytest.mark.parametrize("lrs", [[], [0.0, 0.1], [float("nan")]])
def test_the_curve_can_be_drawn_of_anything(lrs):
    curve = LiveCurve()
    curve.ended = [(lr, 0.5) for lr in lrs]
    assert curve._as_png()


def _raise(*args, **kwargs):
    raise RuntimeError("the front end is gone")


@pytest.fixture
def said(monkeypatch):
    """Return a list of what is logged as a warning, whatever handlers other tests' libraries have installed."""
    texts = []
    monkeypatch.setattr(_progress.LOGGER, "warning", lambda text, *args: texts.append(text % args))
    return texts


@pytest.mark.one_fast
@pytest.mark.parametrize(
    ("owner", "method"),
    [(LiveCurve, "draw"), (LiveCurve, "plot"), *[(rich.progress.Progress, m) for m in ("start", "update", "stop")]],
)
def test_an_error_while_drawing_is_said_once_and_ends_no_search(make, monkeypatch, said, owner, method):
    plain = make(net(), cv=CV, random_state=0, refit=False).fit(X, Y)
    monkeypatch.setattr(_progress, "can_draw", lambda console: True)
    monkeypatch.setattr(owner, method, _raise)
    search = make(net(), cv=CV, random_state=0, refit=False, progress=True).fit(X, Y)
    assert (search.cell_scores_ == plain.cell_scores_).all()
    assert said == ["progress=True stops drawing, the search goes on: RuntimeError: the front end is gone"]


def test_two_stacks_that_fail_to_draw_at_the_same_time_say_so_once(monkeypatch, said):
    def fail_late(*args, **kwargs):
        time.sleep(0.1)  # until then, the other thread has found that there is a display
        _raise()

    with _progress.Progress(True, 4) as progress:
        monkeypatch.setattr(progress._bar, "update", fail_late)
        threads = [threading.Thread(target=progress.update, args=(1,)) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert said == ["progress=True stops drawing, the search goes on: RuntimeError: the front end is gone"]


def test_plain_text_in_a_notebook_is_drawn_once_a_second(monkeypatch):
    """Every refresh stays in the file of a notebook that `nbconvert --execute` has run: ten a second fill it."""
    assert _progress._make_bar().live.refresh_per_second == 10
    monkeypatch.setattr(_progress, "_console", lambda: rich.console.Console(force_jupyter=False, force_terminal=True))
    assert _progress._make_bar().live.refresh_per_second == 1


IN_A_NOTEBOOK = """
from sklearn.datasets import load_iris
from sklr import MLP, LRGridSearchCV, NeuralNetClassifier
X, y = load_iris(return_X_y=True)
_ = LRGridSearchCV(NeuralNetClassifier(MLP), lrs=[0.01, 0.1, 0.2], cv=3, random_state=0, progress=True).fit(X, y)
"""


@pytest.mark.slow
def test_it_shows_in_a_notebook_without_ipywidgets():
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(IN_A_NOTEBOOK)])
    NotebookClient(notebook, timeout=120, kernel_name="python3").execute()
    printed = "".join(output.get("text", "") for output in notebook.cells[0].outputs)
    assert "3/3" in printed
    assert "best 0." in printed
    pictures = [output for output in notebook.cells[0].outputs if "image/png" in output.get("data", {})]
    assert len(pictures) == 1, "the curve, which has changed in its place"
    assert "IProgress" not in str(notebook.cells[0].outputs), "tqdm's warning, which says nothing of sklr"
    assert "Traceback" not in str(notebook.cells[0].outputs)
