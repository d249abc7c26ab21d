"""Collects all public objects of sklr, and the name under which each has its page in the API reference."""

import importlib

import sklr

PACKAGES = (  # an object that several of these export is documented under the first one
    "sklr",
    "sklr.nets",
    "sklr.modules",
    "sklr.schedules",
    "sklr.callbacks",
    "sklr.search",
    "sklr.engines",
    "sklr.accelerate",
    "sklr.range_test",
    "sklr.selection",
    "sklr.replicate",
    "sklr.scaling",
    "sklr.transfer",
    "sklr.recipes",
    "sklr.plotting",
    "sklr.report",
    "sklr.exceptions",
)
FOR_ENGINES = {"check_engine", "pick_engine", "raised_by_callback", "trains_nets"}  # used only inside sklr


def public_objects():
    """Return {name of its page: object} for each public object; data such as dicts have no page."""
    found, seen = {}, set()
    for package in map(importlib.import_module, PACKAGES):
        for name in _names(package):
            thing = getattr(package, name)
            if callable(thing) and name not in FOR_ENGINES and id(thing) not in seen:
                seen.add(id(thing))
                found[f"{package.__name__}.{name}"] = thing
    return found


def _names(package):
    own = [n for n, thing in vars(package).items() if getattr(thing, "__module__", "") == package.__name__]
    return getattr(package, "__all__", [name for name in own if not name.startswith("_")])


def canonical_names():
    """Return {name in a text: name of the object's page}.

    Classes, and objects that `sklr` itself exports, can be named without their package. Other functions need it, since
    names such as `edge` are also names of attributes.
    """
    objects = public_objects()
    page_of = {id(thing): page for page, thing in objects.items()}
    names = {page: page for page in objects}
    for package in map(importlib.import_module, PACKAGES):
        for name in _names(package):
            page = page_of.get(id(getattr(package, name)))
            if page is not None:
                names[f"{package.__name__}.{name}"] = page
                if package is sklr or name[0].isupper():
                    names.setdefault(name, page)
    return names


CANONICAL = canonical_names()
