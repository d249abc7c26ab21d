"""The README is true: its code runs and prints what it says, and what it names is there."""

import re
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest

import sklr
from sklr.schedules import SCHEDULES

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
CODE = re.search(r"```python\n(.*?)```", README, re.DOTALL)[1]
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
MODULE_MAP = CONTRIBUTING.split("## A map of the modules")[1].split("\n## ")[0]


def table(text):
    """Return learning rates, scores and first words of the status of a printed LR curve."""
    rows = [line.split()[:4] for line in text.splitlines()[1:]]
    lrs, scores, _, status = zip(*rows, strict=True)
    return [float(lr) for lr in lrs], np.array(scores, dtype=float), list(status)


def test_the_readme_is_short():
    assert len(README.splitlines()) < 150


def test_the_search_fits_in_12_lines():
    assert len(CODE.splitlines()) <= 12


def test_the_code_prints_what_the_readme_says(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {}
    with pytest.warns(sklr.DivergedWarning, match="1 of 11 candidates diverged"):
        exec(compile(CODE, "README.md", "exec"), names)
    plt.close("all")
    assert (tmp_path / "lr_curve.png").stat().st_size
    promised = re.search(r"```text\n(.*?)```", README, re.DOTALL)[1]
    lrs, scores, status = table(promised)
    got_lrs, got_scores, got_status = table(capsys.readouterr().out)
    assert (got_lrs, got_status) == (lrs, status)
    # other versions and processors round otherwise, and where learning is unstable that grows
    np.testing.assert_allclose(got_scores, scores, atol=0.05)
    assert promised.splitlines()[1 + lrs.index(float(f"{names['search'].best_lr_:.3g}"))].endswith("<- best")


def test_every_link_leads_somewhere():
    text = README + CONTRIBUTING + (ROOT / "README.zh.md").read_text(encoding="utf-8")
    links = re.findall(r"\]\((?!https?:)([^)#\s]+)[^)]*\)", text)
    assert "docs/lr_curve.png" in links
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_every_file_named_is_there():
    named = re.findall(r"`([\w.]+/[\w./]*|[\w/]+\.(?:py|md|txt|toml))`", README)
    assert "pyproject.toml" in named
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_every_make_target_named_is_there():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^    make (\w+)", README, re.MULTILINE))
    assert targets == {"demo", "test"}
    assert [target for target in targets if f"\n{target}:" not in makefile] == []


def test_the_map_names_every_public_module_and_no_other():
    package = ROOT / "sklr"
    there = {f"sklr/{path.name}" for path in package.glob("[!_]*.py")}
    there |= {f"sklr/{path.parent.name}/" for path in package.glob("[!_]*/__init__.py")}
    assert set(re.findall(r"`(sklr/[\w./]+)`", MODULE_MAP)) == there


def test_the_schedules_named_are_all_but_the_constant():
    passage = re.search(r"`schedule`: (.*?)a function of the epoch", README, re.DOTALL)[1]
    assert set(re.findall(r'"(\w+)"', passage)) == set(SCHEDULES) - {"constant"}
