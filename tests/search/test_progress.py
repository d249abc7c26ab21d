"""The bar of a search says how far it is, and is silent unless asked for."""

import nbformat
import pytest
from nbclient import NotebookClient
from strategies import CV, X, Y, net

from sklr.search import _progress


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
    monkeypatch.setattr(_progress.Progress, "epoch", lambda self, n_epochs: told.append(n_epochs))
    make(net(), cv=CV, random_state=0, refit=False, progress=True).fit(X, Y)
    assert told[:4] == [1, 2, 3, 4]


def test_nothing_is_printed_by_default(make, capsys):
    make(net(), cv=CV, random_state=0, refit=False).fit(X, Y)
    assert capsys.readouterr().out == ""


def test_bad_values_are_refused(make):
    with pytest.raises(ValueError, match="progress must be True or False, got 'yes'"):
        make(net(), progress="yes").fit(X, Y)


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
    assert "IProgress" not in str(notebook.cells[0].outputs), "tqdm's warning, which says nothing of sklr"
    assert "Traceback" not in str(notebook.cells[0].outputs)
