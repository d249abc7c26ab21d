"""The order of the modules: each imports only from those below it, and importing sklr is cheap."""

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent / "sklr"
LEVELS = [  # low to high; a package stands for all modules in it
    {"exceptions", "_optional", "_sklearn"},
    {"_validation", "_random", "_divergence", "_named", "_shown", "_warnings"},
    {"schedules", "results", "selection", "scaling"},
    {"callbacks", "_callback_bridge"},
    {"modules", "_net_data", "_net_parts", "_net_accumulate", "_net_labels", "_net", "nets", "engines"},
    {"search", "range_test", "accelerate"},
    {"replicate", "transfer", "recipes"},
    {"plotting"},
    {"report"},
    {""},  # sklr/__init__.py
]
LEVEL = {name: level for level, names in enumerate(LEVELS) for name in names}
ON_REQUEST = {"matplotlib", "pandas", "rich", "plotly"}  # imported inside the functions that need them


def module_name(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


MODULES = {module_name(path): path for path in sorted(ROOT.rglob("*.py"))}
TREES = {name: ast.parse(path.read_text()) for name, path in MODULES.items()}


def imported(tree, top_level_only=False):
    """Yield (module, name) for every import; name is None for `import module`."""
    for node in tree.body if top_level_only else ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, None) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (("." * node.level + (node.module or ""), alias.name) for alias in node.names)


def within_sklr(name):
    """Return the modules of sklr that module `name` imports from."""
    for module, what in imported(TREES[name]):
        if module == "sklr" and what in MODULES:
            yield what  # from sklr import _net_data
        elif module == "sklr" or module.startswith("sklr."):
            yield module[len("sklr.") :]


def part_of(module):
    return module.partition(".")[0]


def test_every_module_has_its_level():
    assert {part_of(name) for name in MODULES} == LEVEL.keys()


@pytest.mark.parametrize("name", MODULES)
def test_a_module_imports_only_from_below(name):
    for other in within_sklr(name):
        assert other, f"{name} imports from sklr itself; import from the defining module"
        if part_of(other) != part_of(name):
            assert LEVEL[part_of(other)] <= LEVEL[part_of(name)], f"{name} imports from {other}, which is above it"


def test_there_is_no_cycle():
    order = list(TopologicalSorter({name: set(within_sklr(name)) for name in MODULES}).static_order())
    assert order[-1] == ""


@pytest.mark.parametrize("name", MODULES)
def test_imports_are_absolute_and_heavy_ones_wait(name):
    assert not any(module.startswith(".") for module, _ in imported(TREES[name]))
    tops = {part_of(module) for module, _ in imported(TREES[name], top_level_only=True)}
    assert not tops & ON_REQUEST


@pytest.mark.parametrize("name", MODULES)
def test_what_is_private_in_scikit_learn_comes_through_one_file(name):
    private = [
        f"{module}.{what}"
        for module, what in imported(TREES[name])
        if part_of(module) == "sklearn" and any(part.startswith("_") for part in [*module.split("."), what or ""])
    ]
    assert name == "_sklearn" or not private


def modules_after(statements):
    code = f"{statements}; import sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_importing_sklr_costs_little_more_than_what_it_stands_on():
    below = modules_after("import torch, skorch, sklearn.model_selection, sklearn.callback")
    added = modules_after("import torch, skorch, sklearn.model_selection, sklearn.callback, sklr") - below
    assert not {part_of(module) for module in added} & ON_REQUEST
    assert len(added) < len(below) / 4  # Optuna and scikit-optimize are most of it
