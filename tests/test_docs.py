"""The site builds without a warning, leads nowhere that is not there, and prints what its code prints."""

import io
import json
import re
import shutil
import subprocess
import sys
import textwrap
import types
import warnings
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import matplotlib.pyplot as plt
import nbformat
import numpy as np
import pytest
import torch
from docutils import nodes
from docutils.core import publish_doctree
from nbclient import NotebookClient
from sklearn.base import clone
from sklearn.datasets import load_iris
from sphinx_gallery.gen_gallery import DEFAULT_GALLERY_CONF
from sphinx_gallery.notebook import jupyter_notebook
from sphinx_gallery.py_source_parser import split_code_and_text_blocks

from sklr import MLP, DivergedWarning, EdgeOfRangeWarning, NeuralNetClassifier
from sklr.engines.stacked.data.batch import Batch
from sklr.engines.stacked.model.stack import ModelStack

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = [DOCS / "quick_start.rst", *sorted((DOCS / "guide").glob("*.rst"))]
ON_A_CODE_HOST = [page for page in PAGES if page.stem != "index"]  # which is a table of contents and nothing else
ON_A_CODE_HOST += [DOCS / "zh" / "five_posts.rst", DOCS / "peers.rst", DOCS / "how_it_works.rst"]
BLOCK = re.compile(r"^\.\. code-block:: (\w+)\n((?:    :.*\n)*)\n((?:    .*\n|\n(?=    ))+)", re.MULTILINE)
NUMBER = re.compile(r"[-+]?\d+(?:[.,]\d+)*(?:e[-+]?\d+)?")
WAY_IT_ENDED = re.compile(r"diverged at step .*")  # other processors diverge some steps sooner or later


def python_of(markdown):
    return re.findall(r"```python\n(.*?)```", markdown, re.DOTALL)


def test_the_search_on_the_first_page_is_the_readmes():
    blocks = BLOCK.findall((DOCS / "index.rst").read_text(encoding="utf-8"))
    assert [textwrap.dedent(code) for _, _, code in blocks] == python_of((ROOT / "README.md").read_text("utf-8"))[:1]


@pytest.mark.parametrize("page", ON_A_CODE_HOST, ids=lambda page: page.stem)
def test_a_code_host_can_show_a_page(page):
    """Code hosts render with docutils alone: no directive or role of Sphinx's, and links to files that are there."""
    settings = {"report_level": 2, "halt_level": 5, "warning_stream": (said := io.StringIO())}
    tree = publish_doctree(page.read_text(encoding="utf-8"), str(page), settings_overrides=settings)
    assert said.getvalue() == ""
    links = [node["refuri"] for node in tree.findall(nodes.reference) if ":" not in node["refuri"]]
    assert [link for link in links if not (page.parent / link).exists()] == []


def test_the_chinese_pages_have_the_code_of_the_english_ones():
    """And what it prints: what is run and compared of the one holds for the other."""
    for name in ("five_posts",):
        english, chinese = (BLOCK.findall((DOCS / room / f"{name}.rst").read_text("utf-8")) for room in ("guide", "zh"))
        assert english == chinese
    english, chinese = (python_of((ROOT / name).read_text("utf-8")) for name in ("README.md", "README.zh.md"))
    assert english == chinese


def assert_agree(printed, promised):
    """Words must be equal, numbers near each other: processors round differently, and training amplifies that."""
    said, wanted = (WAY_IT_ENDED.sub("diverged", text).split() for text in (printed, promised))
    assert [NUMBER.sub("#", word) for word in said] == [NUMBER.sub("#", word) for word in wanted], printed
    numbers = [
        [float(found.replace(",", "")) for word in words for found in NUMBER.findall(word)] for words in (said, wanted)
    ]
    np.testing.assert_allclose(*numbers, rtol=0.25, atol=0.05, err_msg=printed)


def check_loops(page):
    """Trained one after another, as the loops do, the searches give the loops' numbers to the last bit."""
    one_by_one = {"engine": "sequential", "refit": False}
    data = {"X": page.train_loader, "validation": page.val_loader}
    assert (page.grid.engine_, page.search.engine_) == ("stacked", "stacked")
    np.testing.assert_allclose(page.grid.cell_scores_[:, 0], [*page.accuracies.values()], atol=0.01)
    grid = clone(page.grid).set_params(**one_by_one).fit(**data)
    np.testing.assert_array_equal(grid.cell_scores_[:, 0], [*page.accuracies.values()])

    assert page.test.engine == "stacked"
    np.testing.assert_allclose([page.test.start_loss[0], *page.test.loss[:, 0]], page.losses, rtol=1e-5)

    search = page.search.set_params(study=page.new_study(), **one_by_one).fit(**data)
    ours, theirs = trials_of(search.study_), trials_of(page.study)
    assert ours == theirs
    assert {state for state, *_ in ours} == {"COMPLETE", "PRUNED"}


def trials_of(study):
    return [(trial.state.name, *trial.params.values(), trial.intermediate_values) for trial in study.trials]


def check_posts(page):
    """What the posts' loops compute, the searches compute, to the last bit where they train one by one."""
    data = {"X": page.train, "validation": page.held_out}
    np.testing.assert_allclose(page.sweep.cell_scores_[:, 0], page.swept, atol=0.01)
    sweep = clone(page.sweep).set_params(engine="sequential", refit=False).fit(**data)
    np.testing.assert_array_equal(sweep.cell_scores_[:, 0], page.swept)
    search = page.search.set_params(study=page.new_study(), engine="sequential", refit=False).fit(**data)
    assert trials_of(search.study_) == trials_of(page.study)


CHECKS = {"from_a_loop": check_loops, "five_posts": check_posts}


def test_a_search_takes_at_most_half_the_lines_of_the_loop_it_replaces():
    blocks = BLOCK.findall((DOCS / "guide" / "from_a_loop.rst").read_text(encoding="utf-8"))
    lengths = [
        sum(map(bool, map(str.strip, code.splitlines()))) for language, _, code in blocks if language == "python"
    ]
    loops, searches = lengths[1::2], lengths[2::2]  # the first block is what both share
    assert len(loops) == len(searches) == 3
    assert [pair for pair in zip(loops, searches, strict=True) if 2 * pair[1] > pair[0]] == []


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_code_of_a_page_runs_and_prints_what_the_page_says(page, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    module = types.ModuleType(f"page_{page.stem}")
    monkeypatch.setitem(sys.modules, module.__name__, module)  # classes defined on the page can then be pickled
    for language, options, body in BLOCK.findall(page.read_text(encoding="utf-8")):
        if language == "python" and "not-run" not in options:
            with warnings.catch_warnings():
                for expected in (DivergedWarning, EdgeOfRangeWarning):
                    warnings.simplefilter("ignore", expected)
                exec(compile(textwrap.dedent(body), page.name, "exec"), vars(module))
        elif "output" in options:
            assert_agree(capsys.readouterr().out, textwrap.dedent(body))
    plt.close("all")
    assert capsys.readouterr().out == "", "the page does not show this"
    if page.stem in CHECKS:
        CHECKS[page.stem](module)


class Links(HTMLParser):
    """What a page points to, what can be pointed to on it, and what it loads."""

    def __init__(self, path):
        super().__init__()
        self.targets, self.anchors, self.loaded = [], {""}, []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.anchors |= {given[key] for key in ("id", "name") if given.get(key)}
        target = given.get("href") if tag in ("a", "link") else given.get("src")
        if target:
            (self.targets if tag == "a" else self.loaded).append(target)


def assert_leads_somewhere(html):
    pages = {path: Links(path) for path in html.rglob("*.html") if "_static" not in path.parts}
    lost = []
    for path, page in pages.items():
        for target in page.targets + page.loaded:
            to = urlsplit(target)
            place = (path.parent / unquote(to.path)).resolve() if to.path else path
            inside = not to.scheme and not to.netloc
            if inside and (not place.exists() or (place in pages and unquote(to.fragment) not in pages[place].anchors)):
                lost.append(f"{path.relative_to(html)}: {target}")
    assert lost == []
    assert [src for page in pages.values() for src in page.loaded if src.startswith(("http", "//"))] == []


@pytest.mark.slow
def test_the_site_builds_without_a_warning_and_every_link_leads_somewhere(tmp_path):
    leave = shutil.ignore_patterns("_build", "generated", "examples", "__pycache__")
    shutil.copytree(DOCS, tmp_path / "docs", ignore=leave)
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    shutil.copytree(ROOT / "benchmarks" / "results", tmp_path / "benchmarks" / "results")
    for page in ("README.md", "README.zh.md", "CONTRIBUTING.md", "CHANGELOG.md", "benchmarks/README.md"):
        shutil.copy(ROOT / page, tmp_path / page)
    command = [sys.executable, "-m", "sphinx", "-b", "html", "-W", "--keep-going", "-n", "-q", "-D", "plot_gallery=0"]
    built = subprocess.run([*command, ".", "html"], cwd=tmp_path / "docs", capture_output=True, text=True)
    assert built.stderr == ""
    assert built.returncode == 0
    assert_leads_somewhere(tmp_path / "docs" / "html")


def test_every_public_object_has_its_page(monkeypatch):
    monkeypatch.syspath_prepend(DOCS)
    from public import public_objects

    listed, module = [], "sklr"
    for line in (DOCS / "api.rst").read_text(encoding="utf-8").splitlines():
        if line.startswith(".. currentmodule::"):
            module = line.split()[-1]
        elif re.fullmatch(r"   [\w.]+", line):
            listed.append(f"{module}.{line.strip()}")
    objects = public_objects()
    assert sorted(set(objects) - set(listed)) == [], "add these to a group of docs/api.rst"
    assert sorted(set(listed) - set(objects)) == []
    assert len(listed) == len(set(listed))


@pytest.mark.slow
def test_the_first_example_runs_as_a_notebook(tmp_path):
    _, blocks = split_code_and_text_blocks(ROOT / "examples" / "plot_01_first_search.py")
    written = json.dumps(jupyter_notebook(blocks, DEFAULT_GALLERY_CONF, str(tmp_path)))
    notebook = nbformat.reads(written, as_version=4)
    nbformat.validate(notebook)
    NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    html = [output.data["text/html"] for output in outputs if "text/html" in output.get("data", {})]
    assert len(html) == 1
    assert "LRGridSearchCV" in html[0]
    assert "NeuralNetClassifier" in html[0]
    assert any("<- best" in output.get("text", "") for output in outputs)


@pytest.fixture(scope="module")
def contributed():
    """Return what the blocks of the contributing guide define, and check how long they are."""
    blocks = python_of((ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"))
    assert len(blocks) == 3
    assert max(len(block.splitlines()) for block in blocks) < 40
    module = types.ModuleType("contributed")
    sys.modules[module.__name__] = module
    for block in blocks:
        exec(compile(block, "CONTRIBUTING.md", "exec"), vars(module))
    yield module
    del sys.modules[module.__name__]


def test_the_strategy_of_the_contributing_guide_climbs(contributed):
    X, y = load_iris(return_X_y=True)
    net = NeuralNetClassifier(MLP, module__hidden=(8,), optimizer="adam", max_epochs=10, iterator_train__shuffle=True)
    search = contributed.HillClimbSearchCV(net, lr_range=(1e-6, 1.0), cv=3, scoring="neg_log_loss", random_state=0)
    fitted = clone(search).fit(X, y)
    lrs = fitted.lr_curve_.lr
    np.testing.assert_allclose(lrs[1:] / lrs[:-1], 3)
    assert np.isclose(lrs, 0.001).any(), "it starts in the middle"
    assert fitted.best_lr_ > 0.01, "it climbs"
    assert fitted.lr_edge_ is None or fitted.best_lr_ * 3 > 1, "it stops at the top or at the end"
    assert fitted.engine_ == "stacked"
    np.testing.assert_array_equal(search.fit(X, y).cell_scores_, fitted.cell_scores_)


def test_the_schedule_of_the_contributing_guide_swings(contributed):
    swing = contributed.Swing(times=2)
    assert [round(swing(step, 8), 2) for step in (0, 1, 2, 3, 4, 8, 99)] == [1.0, 0.55, 0.1, 0.55, 1.0, 1.0, 1.0]
    assert repr(swing) == "Swing(times=2)"
    X, y = load_iris(return_X_y=True)
    net = NeuralNetClassifier(MLP, lr=0.1, schedule=contributed.Swing(by="epoch"), max_epochs=4, random_state=0)
    np.testing.assert_allclose(net.fit(X, y).history_[:, "lr"], [0.1, 0.055, 0.01, 0.055])
    with pytest.raises(ValueError, match="times of Swing must be at least 1, got 0"):
        contributed.Swing(times=0)


def test_the_kernel_of_the_contributing_guide_computes_what_others_do(contributed):
    def stack():
        torch.manual_seed(0)
        modules = [torch.nn.Sequential(torch.nn.Linear(4, 8, bias=False), torch.nn.BatchNorm1d(8)) for _ in range(2)]
        return ModelStack(
            modules, 5, torch.nn.MSELoss(), torch.optim.Adam, {}, example=(torch.rand(6, 4), torch.rand(6, 8))
        )

    run_by_run, usual = stack(), stack()
    run_by_run.kernel = contributed.RunByRunKernel(run_by_run.module, torch.nn.MSELoss())
    batch = Batch(torch.rand(2, 6, 4), torch.rand(2, 6, 8))
    lr = torch.tensor([0.001, 0.01, 0.1, 0.2, 0.3])[:, None].expand(5, 2)
    for _ in range(3):
        torch.testing.assert_close(run_by_run.step(lr, batch), usual.step(lr, batch))
    torch.testing.assert_close(run_by_run.outputs(batch.x), usual.outputs(batch.x))
