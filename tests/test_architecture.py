"""The order of the modules: each imports only from those below it, and importing sklr is cheap."""

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent / "sklr"
FLOORS = [  # low to high: a room imports from those on floors below it, and from itself
    ["exceptions", "results", "_utils"],
    ["schedules", "selection", "scaling", "modules"],
    ["callbacks", "plotting"],
    ["nets", "report"],
    ["experiment"],
    ["engines"],  # what all engines have in common; `engines/__init__.py` is on a floor of its own
    ["engines.sequential"],
    ["engines.stacked.data", "engines.stacked.purity"],
    ["engines.stacked.replay"],
    ["engines.stacked.kernels"],
    ["engines.stacked.optim"],
    ["engines.stacked.model"],
    ["engines.stacked.checks", "engines.stacked.scoring"],
    ["engines.stacked.audit"],
    ["engines.stacked.setup"],
    ["engines.stacked"],
    ["engines.__init__"],
    ["range_test", "recipes", "accelerate", "search.storage", "search.pruning"],
    ["search.proposals"],
    ["search"],
    ["replicate", "transfer"],
    ["__init__"],
]
FLOOR = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
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
    """Return the modules of sklr that module `name` imports from, also those it imports by a string."""
    for module, what in imported(TREES[name]):
        if module == "sklr" or module.startswith("sklr."):
            module = module[len("sklr.") :]
            inner = f"{module}.{what}".removeprefix(".")
            yield inner if inner in MODULES else module
    for node in ast.walk(TREES[name]):
        if isinstance(node, ast.Call) and getattr(node.func, "id", getattr(node.func, "attr", "")) == "import_module":
            given = node.args[0].value if isinstance(node.args[0], ast.Constant) else ""
            if given.startswith("sklr"):
                yield given.removeprefix("sklr").removeprefix(".")


def part_of(module):
    return module.partition(".")[0]


def room_of(module):
    """Return the package that a module is in; a module beside the packages is a room of its own.

    The front of the engines and that of sklr itself are above all that they bring together.
    """
    if module in ("", "engines"):
        return f"{module}.__init__".removeprefix(".")
    if MODULES[module].name == "__init__.py":
        return module
    return module.rpartition(".")[0] or module


def test_every_room_has_its_floor():
    assert {room_of(name) for name in MODULES} == FLOOR.keys()


@pytest.mark.parametrize("name", MODULES)
def test_a_module_imports_only_from_below(name):
    room = room_of(name)
    for other in within_sklr(name):
        assert other, f"{name} imports from sklr itself; import from the defining module"
        if room_of(other) != room:
            assert FLOOR[room_of(other)] < FLOOR[room], f"{name} imports from {other}, which is not below it"


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
    assert name == "_utils.sklearn" or not private


def modules_after(statements):
    code = f"{statements}; import sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


@pytest.mark.slow
def test_importing_sklr_costs_little_more_than_what_it_stands_on():
    below = modules_after("import torch, skorch, sklearn.model_selection, sklearn.callback")
    added = modules_after("import torch, skorch, sklearn.model_selection, sklearn.callback, sklr") - below
    assert not {part_of(module) for module in added} & ON_REQUEST
    assert len(added) < len(below) / 4  # Optuna and scikit-optimize are most of it
