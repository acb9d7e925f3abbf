"""Everything public is in the reference: every package with names of its own, every result, every argument's type."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
from pathlib import Path

import pytest

import gpuroi
from gpuroi._card import HasCard

ROOT = Path(__file__).resolve().parents[1]
LISTED = re.findall(r"^   (gpuroi[\w.]*)$", (ROOT / "docs" / "reference.rst").read_text(encoding="utf-8"), re.MULTILINE)
# Inside, or for the command line: what is public in them is listed name by name.
INSIDE = {"gpuroi.backends", "gpuroi.backends.kernels", "gpuroi.cli", "gpuroi.report", "gpuroi.workflows"}
PACKAGES = [
    "gpuroi",
    *(f"gpuroi.{found.name}" for found in pkgutil.iter_modules(gpuroi.__path__) if found.ispkg),
    "gpuroi.errors",
]


def named(name: str) -> object:
    module, _, attribute = name.rpartition(".")
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError:
        return getattr(importlib.import_module(module), attribute)


def documented() -> list[object]:
    found = []
    for name in LISTED:
        one = named(name)
        found += [getattr(one, part) for part in one.__all__] if inspect.ismodule(one) else [one]
    return found


def test_every_public_package_is_listed():
    assert [name for name in PACKAGES if name not in LISTED and name not in INSIDE] == []
    assert len(LISTED) == len(set(LISTED))


@pytest.mark.parametrize("name", LISTED)
def test_what_is_listed_is_there_and_described(name):
    one = named(name)
    for part in getattr(one, "__all__", []) if inspect.ismodule(one) else []:
        value = getattr(one, part)
        if inspect.isfunction(value) or inspect.isclass(value):
            assert len(inspect.getdoc(value) or "") > 20, f"{name}.{part}"
    assert len(inspect.getdoc(one) or "") > 20


def test_every_result_of_a_workflow_is_in_the_reference():
    """Whatever a notebook shows as a card comes out of a public function."""
    classes = set()
    for found in pkgutil.iter_modules(importlib.import_module("gpuroi.workflows").__path__):
        module = importlib.import_module(f"gpuroi.workflows.{found.name}")
        classes |= {
            value
            for _, value in inspect.getmembers(module, inspect.isclass)
            if value.__module__ == module.__name__ and issubclass(value, HasCard) and hasattr(value, "save")
        }
    assert len(classes) >= 8
    results = [value for value in classes if not value.__subclasses__()]
    assert [value.__name__ for value in results if value not in documented()] == []


def test_returns_and_arguments_of_public_functions_are_documented():
    """A class of ours in the annotation of a public function has a page."""
    everything, ours = documented(), classes_of_ours()
    functions = [one for one in everything if inspect.isfunction(one)]
    assert len(functions) > 90
    missing = set()
    for function in functions:
        words = re.findall(r"\b[A-Z]\w+\b", " ".join(str(words) for words in function.__annotations__.values()))
        missing |= {f"{function.__module__}: {word}" for word in words if word in ours and ours[word] not in everything}
    assert sorted(missing) == []


def classes_of_ours() -> dict[str, type]:
    """Classes in any `__all__`, by name: annotations are text, and what they name is often imported for types alone."""
    found = {}
    for module in pkgutil.walk_packages(gpuroi.__path__, "gpuroi."):
        if not re.search(r"__main__|\.kernels\.|\.nilearn\.", module.name):
            loaded = importlib.import_module(module.name)
            values = {name: getattr(loaded, name, None) for name in getattr(loaded, "__all__", [])}
            found |= {name: value for name, value in values.items() if inspect.isclass(value)}
    del found["Array"]  # of any library
    return found
