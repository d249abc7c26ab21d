"""Sphinx configuration of the documentation site, for `make docs`; nothing is fetched from the network."""

import os
import shutil
from pathlib import Path

from docutils import nodes
from docutils.utils.math.latex2mathml import tex2mathml
from public import CANONICAL
from sphinx import addnodes
from sphinx.util.docutils import SphinxRole

import sklr

os.environ.setdefault("SKLR_OFFLINE", "1")  # examples then use local data only
HERE = Path(__file__).parent
ROOT = HERE.parent

project = "sklr"
author = "The sklr developers"
version = release = sklr.__version__
extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.extlinks",
    "numpydoc",
    "sphinx_gallery.gen_gallery",
    "sphinx_design",
    "myst_parser",
]
exclude_patterns = ["_build", "_templates", "gallery.rst"]
templates_path = ["_templates"]
default_role = "code-or-link"
nitpicky = True

# Issue trackers that the pages link to, by the role's name: :skorch:`433` is shown as skorch#433.
_PROJECTS = {
    "course-v3": "fastai/course-v3",
    "dask-ml": "dask/dask-ml",
    "fastai": "fastai/fastai",
    "functorch": "pytorch/functorch",
    "keras": "keras-team/keras",
    "lightning": "Lightning-AI/pytorch-lightning",
    "lr-finder": "davidtvs/pytorch-lr-finder",
    "mup": "microsoft/mup",
    "optuna": "optuna/optuna",
    "optuna-integration": "optuna/optuna-integration",
    "scikit-learn": "scikit-learn/scikit-learn",
    "scikit-optimize": "scikit-optimize/scikit-optimize",
    "skorch": "skorch-dev/skorch",
    "transformers": "huggingface/transformers",
}
extlinks = {name: (f"https://github.com/{where}/issues/%s", f"{name}#%s") for name, where in _PROJECTS.items()}

autosummary_generate = True
autodoc_typehints = "none"  # numpydoc's sections say it with shapes and units
numpydoc_show_class_members = False  # the template lists them, without members inherited from other packages
myst_heading_anchors = 3

sphinx_gallery_conf = {
    "examples_dirs": str(HERE / "_build" / "examples"),  # a copy, because an example saves its picture where it runs
    "gallery_dirs": "examples",
    "within_subsection_order": "FileNameSortKey",
    "download_all_examples": False,
    "remove_config_comments": True,
    "capture_repr": ("_repr_html_",),
    "abort_on_example_error": True,
    "show_memory": False,
    "doc_module": ("sklr",),
    "backreferences_dir": "generated/backreferences",
    "inspect_global_variables": False,
    "write_computation_times": False,
}

toc_object_entries_show_parents = "hide"
html_theme = "pydata_sphinx_theme"
html_title = "sklr"
html_static_path = ["_static"]
html_css_files = ["sklr.css"]
html_math_renderer = "mathml"
html_copy_source = False
html_show_sourcelink = False
_ALONE = ("index", "quick_start", "how_it_works", "benchmarks", "peers", "faq", "contributing", "changelog")
html_sidebars = {page: [] for page in _ALONE}
html_theme_options = {
    "logo": {"text": "sklr"},
    "show_prev_next": False,
    "secondary_sidebar_items": ["page-toc"],
    "navbar_align": "left",
    "header_links_before_dropdown": 7,
    "footer_start": ["copyright"],
    "footer_end": [],
    "pygments_light_style": "a11y-high-contrast-light",
    "pygments_dark_style": "a11y-high-contrast-dark",
}


class CodeOrLink(SphinxRole):
    """Default role: text in single backticks is code, and also a link if it names a public object."""

    def run(self):
        """Return the nodes for one name."""
        target = CANONICAL.get(self.text)
        if target is None:
            return [nodes.literal(self.rawtext, self.text)], []
        link = self.env.domains.python_domain.role("obj")
        return link(
            "py:obj", self.rawtext, f"{self.text} <{target}>", self.lineno, self.inliner, self.options, self.content
        )


def show_math(self, node):
    """Write a formula as MathML, which browsers render without JavaScript."""
    is_block = isinstance(node, nodes.math_block)
    self.body.append(tex2mathml(node.astext(), as_block=is_block))
    raise nodes.SkipNode


def skip_foreign(app, what, name, member, skip, options):
    """Skip members that a class inherits from other packages, which document them."""
    function = member.fget if isinstance(member, property) else member
    module = getattr(function, "__module__", None)
    return True if isinstance(module, str) and not module.startswith("sklr") else None


def copy_examples(app, config):
    """Copy the examples and the gallery's introduction to a directory where examples may write files."""
    target = HERE / "_build" / "examples"
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    for path in sorted((ROOT / "examples").glob("plot_*.py")):
        shutil.copy2(path, target)
    shutil.copy2(HERE / "gallery.rst", target / "GALLERY_HEADER.rst")


_ELSEWHERE = {"benchmarks/README.md": "benchmarks", "CONTRIBUTING.md": "contributing", "CHANGELOG.md": "changelog"}


def link_to_pages(app, doctree):
    """Replace links to source files, which work on a code host, by links to the pages built from these files."""
    here = app.env.doc2path(app.env.docname)
    for node in list(doctree.findall(nodes.reference)):
        path = node.get("refuri", "")
        if ":" in path or not path.endswith((".rst", ".md", ".py")):
            continue
        file = (Path(here).parent / path).resolve()
        page = _ELSEWHERE.get(file.relative_to(ROOT).as_posix())
        if file.suffix == ".py":
            page = f"examples/{file.stem}"
        elif page is None:
            page = file.relative_to(HERE).with_suffix("").as_posix()
        link = addnodes.pending_xref(refdomain="std", reftype="doc", reftarget=f"/{page}", refexplicit=True)
        link += nodes.inline("", node.astext())
        node.replace_self(link)


def setup(app):
    """Register the roles, renderers and event handlers defined above."""
    app.add_role("code-or-link", CodeOrLink())
    app.add_html_math_renderer("mathml", inline_renderers=(show_math, None), block_renderers=(show_math, None))
    app.connect("autodoc-skip-member", skip_foreign)
    app.connect("doctree-read", link_to_pages)
    app.connect("config-inited", copy_examples, priority=1)
