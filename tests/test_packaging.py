"""What is built can be installed and used: the wheel, the sdist, the versions both ask for; and shown in a notebook."""

import ast
import dataclasses
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from email import message_from_string
from importlib.metadata import distribution, packages_distributions
from pathlib import Path

import pytest
import searches
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

import sklr
from sklr import scaling, transfer
from sklr._utils.html import ShownAsText

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
FOR_USERS = ("plot", "dask", "ray", "postgres", "progress", "report")  # the other extras are for those who work on sklr
LEFTOVERS = ("docs/_build/index.html", "tests/__pycache__/labels.pyc", "benchmarks/.mypy_cache/a.json", "sklr/a.tmp")
BUILD = "from setuptools import build_meta; print(build_meta.build_{}('dist'))"


def build(what, folder):
    """Build as pip does, in a process of its own, and return the path of what was built."""
    done = subprocess.run([sys.executable, "-c", BUILD.format(what)], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder / "dist" / done.stdout.splitlines()[-1]


@pytest.fixture(scope="module")
def sdist(tmp_path_factory):
    """Return a source distribution of this tree, in which someone has worked."""
    tree = tmp_path_factory.mktemp("tree") / "sklr"
    leave = shutil.ignore_patterns(".*", "*.egg-info", "__pycache__", "build", "dist", "_build", "generated")
    shutil.copytree(ROOT, tree, ignore=leave)
    for name in LEFTOVERS:
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_text("left over")
    return build("sdist", tree)


@pytest.fixture(scope="module")
def unpacked(sdist, tmp_path_factory):
    """Return the folder of the unpacked sdist."""
    folder = tmp_path_factory.mktemp("sdist")
    with tarfile.open(sdist) as archive:
        archive.extractall(folder, filter="data")
    return folder / f"sklr-{sklr.__version__}"


@pytest.fixture(scope="module")
def wheel(unpacked, tmp_path_factory):
    """Return the folder of an unpacked wheel that was built from the sdist, not from this tree."""
    folder = tmp_path_factory.mktemp("wheel")
    with zipfile.ZipFile(build("wheel", unpacked)) as archive:
        archive.extractall(folder)
    return folder


def files_of(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_the_sdist_holds_what_the_tests_read_and_nothing_left_over(unpacked):
    there = files_of(unpacked)
    sources = {
        path.relative_to(ROOT).as_posix()
        for folder in ("sklr", "tests", "examples", "benchmarks")
        for path in (ROOT / folder).rglob("*.py")
    }
    pages = {"LICENSE", "Makefile", "constraints.txt", "constraints-oldest.txt", "docs/lr_curve.png", "docs/index.rst"}
    assert sorted((sources | pages) - there) == []
    assert sorted(there & set(LEFTOVERS)) == []


def test_the_wheel_holds_the_package_with_its_data_and_nothing_else(wheel):
    package = {f"sklr/{name}" for name in files_of(ROOT / "sklr") if not name.endswith((".pyc", ".pyo"))}
    assert {"sklr/py.typed", "sklr/report/page.html", "sklr/report/page.js"} < package
    info = {name for name in files_of(wheel) if name.startswith(f"sklr-{sklr.__version__}.dist-info/")}
    assert files_of(wheel) - info == package
    assert any(name.endswith("LICENSE") for name in info)


def test_the_wheel_says_what_pyproject_says(wheel):
    written = (wheel / f"sklr-{sklr.__version__}.dist-info" / "METADATA").read_text(encoding="utf-8")
    metadata = message_from_string(written)
    assert metadata["Version"] == PROJECT["version"] == sklr.__version__
    assert set(metadata.get_all("Provides-Extra")) == set(EXTRAS)
    always = [Requirement(line) for line in metadata.get_all("Requires-Dist") if "extra ==" not in line]
    assert set(always) == {Requirement(line) for line in PROJECT["dependencies"]}
    assert metadata.get_payload().strip() == (ROOT / "README.md").read_text(encoding="utf-8").strip()


def test_the_readmes_search_runs_with_the_wheel_alone(wheel, tmp_path):
    settings = os.environ | {"PYTHONPATH": str(wheel), "MPLBACKEND": "Agg", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-P", str(ROOT / "tests" / "quick_start.py"), str(ROOT / "README.md")]
    done = subprocess.run(command, cwd=tmp_path, env=settings, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("<- best") == 1
    assert f"sklr is {wheel / 'sklr' / '__init__.py'}" in done.stdout


def test_an_editable_install_is_found_from_the_folder_the_clone_is_in(unpacked, tmp_path):
    """There the clone's folder, sklr, looks like a package without code, which a path entry wins over."""
    clone = tmp_path / "sklr"
    shutil.copytree(unpacked, clone)
    site = tmp_path / "site"
    with zipfile.ZipFile(build("editable", clone)) as archive:
        archive.extractall(site)
    code = f"import site; site.addsitedir({str(site)!r}); import importlib.util as u; print(u.find_spec('sklr').origin)"
    alone = os.environ | {"PYTHONPATH": ""}  # and -S: an installation of sklr in this environment is not looked at
    for folder in (tmp_path, clone, clone / "tests"):
        done = subprocess.run([sys.executable, "-S", "-c", code], cwd=folder, env=alone, capture_output=True, text=True)
        assert done.stdout.strip() == str(clone / "sklr" / "__init__.py"), done.stderr


def requirements_of(lines):
    """Yield all requirements, those that sklr's own extras and other packages' extras stand for among them."""
    for requirement in map(Requirement, lines):
        if requirement.name == "sklr":
            yield from requirements_of(line for extra in requirement.extras for line in EXTRAS[extra])
            continue
        yield requirement
        for extra in requirement.extras:
            others = map(Requirement, distribution(requirement.name).requires or [])
            yield from (
                one
                for one in others
                if one.marker and "extra" in str(one.marker) and one.marker.evaluate({"extra": extra})
            )


def imported_by(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield node.module.partition(".")[0]


def local_modules():
    """Return the names that tests import from their own folders, and from docs/ and benchmarks/."""
    folders = [ROOT / "tests", *(ROOT / "tests").glob("**/"), ROOT / "docs", ROOT / "benchmarks"]
    return {path.stem for folder in folders for path in folder.glob("*.py")} | {"sklr"}


def test_the_tests_import_nothing_that_their_extra_does_not_install():
    promised = {canonicalize_name(one.name) for one in requirements_of([*PROJECT["dependencies"], *EXTRAS["test"]])}
    read = [*(ROOT / "tests").rglob("*.py"), *(ROOT / "examples").glob("*.py")]
    names = {name for path in read for name in imported_by(path)} - sys.stdlib_module_names - local_modules()
    assert {"torch", "distributed", "pandas"} < names
    installed = packages_distributions()
    missing = {name for name in names if not promised & {canonicalize_name(one) for one in installed.get(name, [])}}
    assert missing == set()


def lower_bounds():
    """Return by package the lowest version that pyproject.toml allows users."""
    lines = [*PROJECT["dependencies"], *(line for extra in FOR_USERS for line in EXTRAS[extra])]
    asked = {canonicalize_name(one.name): one.specifier for one in map(Requirement, lines)}
    return {name: Version(one.version) for name, rules in asked.items() for one in rules if one.operator == ">="}


def test_the_oldest_versions_tested_are_the_oldest_allowed():
    written = (ROOT / "constraints-oldest.txt").read_text(encoding="utf-8")
    tested = dict(re.findall(r"^([\w-]+)==([\w.]+)", written, re.MULTILINE))
    not_tested = lower_bounds().items() - {name: Version(version) for name, version in tested.items()}.items()
    assert not_tested == set()


def test_every_extra_that_an_error_tells_to_install_is_there():
    sources = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "sklr").rglob("*.py"))
    named = set(re.findall(r"extra=\"(\w+)\"", sources))
    assert {"plot", "report"} <= named <= set(FOR_USERS)


def shown(thing):
    """Return what a notebook shows, tags and all, and check that it has a plain text beside it."""
    html = thing._repr_html_()
    assert html.strip().startswith("<")
    assert repr(thing)
    return html


@pytest.mark.parametrize("net", [sklr.NeuralNetClassifier, sklr.NeuralNetBinaryClassifier, sklr.NeuralNetRegressor])
def test_a_notebook_shows_a_net_with_its_parameters(net):
    html = shown(net(sklr.MLP, schedule="cosine", warmup_epochs=3))
    for text in (net.__name__, "schedule", "cosine", "warmup_epochs", "Not fitted"):
        assert text in html


@pytest.mark.parametrize("search", [sklr.LRGridSearchCV, sklr.BayesSearchCV, sklr.OptunaSearchCV])
def test_a_notebook_shows_a_search_with_its_parameters(search):
    net = sklr.NeuralNetClassifier(sklr.MLP, schedule="cosine")
    html = shown(search(net, {"lr": [0.01, 0.1]}, error_score="raise"))
    for text in (search.__name__, "NeuralNetClassifier", "error_score", "schedule", "cosine", "Not fitted"):
        assert text in html


def test_a_notebook_shows_a_fitted_search_its_curve_and_its_choice():
    search = searches.in_rounds()
    html = shown(search)
    assert "Not fitted" not in html
    assert "best_estimator_" in html
    curve = shown(search.lr_curve_)
    assert curve.count("<tr") == 1 + len(search.lr_curve_)
    assert f"{search.best_lr_:.3g}" in shown(search.lr_choice_)


RESULTS = {  # what a user is handed, and so what a notebook shows
    sklr.Characterization, sklr.MaxSteps, sklr.NeededWarmup, sklr.RangeTest,
    scaling.MupGroups, scaling.NoiseScale, scaling.SearchCenter, scaling.Transfer,
    transfer.CoordinateCheck, transfer.Exponent, transfer.TransferCheck,
}  # fmt: skip


@pytest.mark.parametrize("result", sorted(RESULTS, key=lambda result: result.__name__))
def test_a_notebook_shows_a_result_as_it_prints(result):
    assert issubclass(result, ShownAsText)
    assert result.__str__ is not object.__str__


@pytest.mark.parametrize("result", sorted(RESULTS, key=lambda result: result.__name__))
def test_a_result_with_arrays_is_a_line_in_a_list(result):
    holds_arrays = any("ndarray" in field.type for field in dataclasses.fields(result))
    assert not holds_arrays or result.__repr__ in (ShownAsText.__repr__, sklr.RangeTest.__repr__)


def test_a_notebook_shows_a_rule_with_its_numbers():
    assert "0.2" in shown(sklr.transfer_lr(0.1, optimizer="sgd", batch_size=(32, 64)))
