"""The report page: what stands on it for every kind of search, that it is one file, and that nothing on it is code."""

import re
import sys
from copy import copy
from html.parser import HTMLParser
from importlib.metadata import version

import numpy as np
import pytest
import searches
from sklearn.datasets import load_iris
from sklearn.ensemble import GradientBoostingClassifier
from sklearn.exceptions import NotFittedError

import sklr
from sklr import LRGridSearchCV, OptunaSearchCV
from sklr.report import write_report
from sklr.report._pictures import pictures
from sklr.selection import lr_curve

VOID = {"meta", "link", "br", "hr", "img", "input"}
SEARCHES = {
    "a search of a net": searches.diverging,
    "rounds": searches.in_rounds,
    "several parameters": searches.several_params,
    "no learning rate": searches.without_lr,
}


class Page(HTMLParser):
    """A page taken apart; fails where a tag is not closed."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.tables, self.text = [], [], [], ""
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "table":
            self.tables.append([])
        if tag == "tr":
            self.tables[-1].append([])
        if tag in ("td", "th"):
            self.tables[-1][-1].append("")

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data
        if self.open[-1:] in (["td"], ["th"]):
            self.tables[-1][-1][-1] += data

    def count(self, tag):
        return sum(name == tag for name, _ in self.tags)


@pytest.fixture(scope="module", params=SEARCHES)
def case(request, tmp_path_factory):
    search = SEARCHES[request.param]()
    path = write_report(search, tmp_path_factory.mktemp("report") / "lr.html")
    text = path.read_text(encoding="utf-8")
    return search, text, Page(text)


@pytest.mark.one_fast
def test_the_page_is_one_small_file_that_loads_nothing(case):
    _, text, page = case
    assert len(text.encode()) < 1_000_000
    addresses = {
        value for _, attrs in page.tags for name, value in attrs.items() if name in ("src", "href", "xlink:href")
    }
    assert {address.partition(":")[0] for address in addresses if not address.startswith("#")} == {"data"}
    assert set(re.findall(r"https?://[^\"' ]+", text)) == {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}
    assert "@import" not in text


def test_what_the_pictures_refer_to_is_there_once(case):
    _, text, page = case
    ids = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    used = set(re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', text))
    assert {a or b for a, b in used} <= set(ids)


def test_the_page_says_what_the_summary_says(case):
    search, _, page = case
    for line in search.summary().splitlines():
        assert line.partition(": ")[2] in page.text


def test_the_tables_hold_all_candidates_and_cells(case):
    search, _, page = case
    candidates, cells = page.tables[:2]
    n_candidates = len(search.cell_scores_)
    assert len(candidates) == len(cells) == n_candidates + 1
    number = candidates[0].index("candidate")
    order = [int(row[number]) for row in candidates[1:]]
    metric = next(key for key in search.cv_results_ if key.startswith("rank_test_"))[len("rank_test_") :]
    metric = metric if not search.multimetric_ else search.refit
    assert order == np.argsort(search.cv_results_[f"rank_test_{metric}"], kind="stable").tolist()
    for row in cells[1:]:
        scores = search.cell_scores_[int(row[0])]
        assert row[1:] == ["–" if np.isnan(s) else f"{s:.4f}" for s in scores]
    for row in candidates[1:]:
        mean = search.cv_results_[f"mean_test_{metric}"][int(row[number])]
        assert row[candidates[0].index(f"mean {metric}")] == ("–" if np.isnan(mean) else f"{mean:.4f}")
        assert row[-1] == search.cv_results_["status"][int(row[number])]


def shown(value):
    text = re.sub(" at 0x[0-9a-f]+", "", repr(value))
    return text if len(text) <= 300 else text[:299] + "…"


def test_what_is_needed_to_run_it_again_is_there(case):
    search, _, page = case
    settings, estimator, versions = (dict(table) for table in page.tables[2:5])
    assert settings == {
        name: shown(value) for name, value in search.get_params(deep=False).items() if name != "estimator"
    }
    assert estimator == {name: shown(value) for name, value in search.estimator.get_params().items()}
    assert versions["torch"] == version("torch")
    assert versions["sklr"] == sklr.__version__
    assert versions["python"] == sys.version.split()[0]
    (folds,) = [table for table in page.tables if table[0][0] == "fold"]
    drawn = [[c.fold, c.seed_index, c.seed, len(c.train), len(c.test)] for c in search.cells_]
    assert [list(map(int, row[:5])) for row in folds[1:]] == drawn
    assert re.sub(" at 0x[0-9a-f]+", "", repr(search.best_estimator_)) in page.text


def test_a_parameter_stays_text(tmp_path):
    text = write_report(searches.several_params(), tmp_path / "lr.html").read_text(encoding="utf-8")
    assert "<script>alert" not in text
    assert "&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt;" in text
    assert Page(text).count("script") == 1


def test_without_javascript_no_button_is_left_without_use(case):
    _, _, page = case
    assert page.count("button") == 0
    assert page.count("thead") == 3


@pytest.mark.one_fast
@pytest.mark.parametrize(
    ("search", "titles"),
    [
        ("a search of a net", ["The LR curve", "Training loss", "Validation score", "The best candidate"]),
        ("rounds", ["The LR curve", "The course of the search"]),
        ("several parameters", ["The LR curve", "The course of the search", "Parameters"]),
        ("no learning rate", ["Parameters"]),
    ],
)
def test_each_search_has_the_pictures_it_can_have(search, titles):
    drawn = pictures(SEARCHES[search]())
    assert [picture.title for picture in drawn] == titles
    for picture in drawn:
        assert "currentColor" in picture.svg
        assert f'aria-label="{picture.title}"' in picture.svg


def test_captions_count_what_they_cannot_show_and_claim_no_range_of_one_cell():
    rows = np.random.default_rng(0).permutation(60)
    one = [(rows[:48], rows[48:])]
    space = {"lr": (0.01, 0.2, "log-uniform"), "module__hidden": [(3,), (4,)]}
    search = OptunaSearchCV(searches.net(), space, n_trials=3, cv=one, random_state=0).fit(searches.X, searches.Y)
    captions = {picture.title: picture.caption for picture in pictures(search)}
    assert captions["The best candidate"] == "The validation score of the best candidate, which has one cell."
    assert captions["The course of the search"] == "The order in which the learning rates were tried."
    search.cv_results_["mean_test_score"][1] = np.nan  # as of a candidate that a pruner has stopped
    captions = {picture.title: picture.caption for picture in pictures(search)}
    assert captions["The course of the search"].endswith("were tried. Not shown: 1 stopped or failed.")
    assert captions["Parameters"].endswith("effect of another one. Not shown: 1 stopped or failed.")


@pytest.mark.slow
def test_the_pictures_are_the_same_every_time():
    assert pictures(searches.in_rounds()) == pictures(searches.in_rounds())


def test_a_search_that_chose_nothing_says_why(tmp_path):
    search = copy(searches.without_lr()).set_params(refit=False)
    for name in ("best_index_", "best_params_", "best_score_", "best_estimator_"):
        delattr(search, name)
    page = Page(write_report(search, tmp_path / "lr.html").read_text(encoding="utf-8"))
    assert "nothing: there are several scores, and refit=False does not say which one decides." in page.text


def test_a_page_claims_no_noise_of_one_cell(tmp_path):
    X, y = load_iris(return_X_y=True)
    one = [(np.arange(0, 150, 2), np.arange(1, 150, 2))]
    model = GradientBoostingClassifier(n_estimators=2, random_state=0)
    search = LRGridSearchCV(model, lr_range=(1e-3, 1.0), n_lrs=5, cv=one).fit(X, y)
    page = Page(search.report(tmp_path / "lr.html").read_text(encoding="utf-8"))
    assert "no interval: one fold with one seed does not tell how noisy the scores are." in page.text
    assert not re.findall("lies between|best one lies|% interval|standard error with|± s.e.|settled", page.text)
    assert "sd score" not in page.tables[0][0]


def test_a_page_of_a_search_without_scores_says_so(tmp_path):
    X, y = load_iris(return_X_y=True)
    model = GradientBoostingClassifier(n_estimators=2)
    search = LRGridSearchCV(model, lrs=[0.1, 0.5], cv=2, refit=False, scoring=lambda *_: float("nan"))
    with pytest.warns(UserWarning, match="no candidate has a score|non-finite"):
        search.fit(X, y)
    page = Page(search.report(tmp_path / "lr.html").read_text(encoding="utf-8"))
    assert "A search without a best candidate" in page.text
    assert "no candidate has a score" in page.text


def enlarged(search, times):
    """Return a copy of a search with each of its candidates many times, at ever larger learning rates."""
    big, n = copy(search), len(search.cv_results_["params"])
    big.cv_results_ = {
        key: column * times if isinstance(column, list) else np.tile(column, times)
        for key, column in search.cv_results_.items()
    }
    big.cv_results_["params"] = [{"lr": 1.01**i, "batch_size": i % 37} for i in range(n * times)]
    big._cell_scores = np.tile(search.cell_scores_, (times, 1)).tolist()
    history = {key: np.tile(column, times) for key, column in search.history_.items()}
    history["candidate"] += n * np.repeat(np.arange(times), len(search.history_["candidate"]))
    big.history_ = history
    lrs = [params["lr"] for params in big.cv_results_["params"]]
    big.lr_curve_ = lr_curve(lrs, big.cell_scores_, big.cv_results_["status"])
    return big


@pytest.mark.slow
def test_a_page_about_thousands_of_candidates_is_still_small(tmp_path):
    search = enlarged(searches.diverging(), 600)
    text = write_report(search, tmp_path / "lr.html").read_text(encoding="utf-8")
    assert len(text.encode()) < 1_000_000
    assert "The best 400 of 3000 candidates; cv_results_ and cell_scores_ have all." in text


def test_the_search_writes_its_report_and_returns_the_path(tmp_path):
    path = tmp_path / "lr.html"
    path.write_text("old")
    assert searches.in_rounds().report(str(path)) == path
    assert path.read_text(encoding="utf-8").startswith("<!doctype html>")


def test_where_no_file_can_be_the_next_step_is_said(tmp_path):
    search = LRGridSearchCV(GradientBoostingClassifier(n_estimators=1), lrs=[0.1, 1.0], cv=2)
    search.fit(*load_iris(return_X_y=True))
    with pytest.raises(
        FileNotFoundError, match=r"path must be in an existing folder, got .*Create the folder '.*none'"
    ):
        search.report(tmp_path / "none" / "lr.html")
    with pytest.raises(IsADirectoryError, match=r"path must be a file, got .*Add a name, such as 'lr.html'"):
        search.report(tmp_path)


def test_a_search_must_be_fitted_to_be_reported(tmp_path):
    with pytest.raises(NotFittedError):
        write_report(LRGridSearchCV(searches.net()), tmp_path / "lr.html")
    assert not (tmp_path / "lr.html").exists()


@pytest.mark.parametrize(("package", "extra"), [("matplotlib", "plot"), ("jinja2", "report")])
def test_a_missing_package_is_named(package, extra, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=rf"{package} must be installed.* pip install 'sklr\[{extra}\]'"):
        write_report(searches.in_rounds(), tmp_path / "lr.html")
