"""What an import costs, what it offers, and that everything offered is described."""

from __future__ import annotations

import inspect
import json
import pkgutil
import re
import subprocess
import sys

import pytest

import gpuroi

HEAVY = (
    "cupy", "cupyx", "cucim", "numba", "scipy.stats", "pandas", "sklearn", "dask", "nilearn", "matplotlib", "nibabel",
)  # fmt: skip


def loaded_by(code: str) -> list[str]:
    """Heavy modules that a fresh interpreter has loaded after `code`."""
    report = f"\nimport json, sys; print(json.dumps([m for m in {HEAVY!r} if m in sys.modules]))"
    done = subprocess.run([sys.executable, "-c", code + report], capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize(
    "code",
    [
        "import gpuroi; import gpuroi.cli",
        "from gpuroi.cli import main; main(['--help'])",
        "from gpuroi.cli import main; main(['roi', '--help'])",
        "from gpuroi.cli import main; main(['--version'])",
        "import gpuroi.ops, gpuroi.backends, gpuroi.images",
        "import gpuroi.workflows.roi, gpuroi.workflows.regions, gpuroi.workflows.volumes, gpuroi.demo_data",
    ],
)
def test_imports_are_light(code):
    assert loaded_by(code) == []


# scikit-learn's base classes have to be there before a class is derived from them; the names of packages are lazy.
ESTIMATORS = {
    "gpuroi.nilearn.labels_masker",
    "gpuroi.nilearn.masker",
    "gpuroi.nilearn.parcellations",
    "gpuroi.nilearn.region_extractor",
    "gpuroi.nilearn.scikit_learn",
    "gpuroi.nilearn.volume_masker",
    "gpuroi.parcels.parcellation",
}


def test_every_module_imports_alone_and_lightly():
    modules = {
        found.name
        for found in pkgutil.walk_packages(gpuroi.__path__, "gpuroi.")
        if ".kernels." not in found.name and "cuda" not in found.name and not found.name.endswith("__main__")
    } - ESTIMATORS
    assert len(modules) > 20
    assert loaded_by("\n".join(f"import {name}" for name in sorted(modules))) == []


@pytest.mark.parametrize("name", gpuroi.__all__)
def test_every_public_name_resolves(name):
    assert getattr(gpuroi, name) is not None


def test_public_names_are_listed_and_sorted():
    assert set(gpuroi.__all__) <= set(dir(gpuroi))
    assert gpuroi.__all__ == sorted(gpuroi.__all__)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'regoins'"):
        gpuroi.regoins  # noqa: B018


FUNCTIONS = [
    name for name in gpuroi.__all__ if name != "__version__" and inspect.isfunction(getattr(gpuroi, name, None))
]


def test_most_public_names_are_functions():
    assert len(FUNCTIONS) >= len(gpuroi.__all__) - 3


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_public_function_is_described(name):
    function = getattr(gpuroi, name)
    text = inspect.getdoc(function)
    assert text is not None
    sections = re.split(r"^([A-Z][A-Za-z ]+)\n-{3,}$", text, flags=re.MULTILINE)
    named = dict(zip(sections[1::2], sections[2::2], strict=True))
    assert len(sections[0].splitlines()[0]) > 10, "a first line that says what it computes"
    assert {"Parameters", "Returns"} <= set(named)
    listed = {
        word.strip(" *")
        for line in named["Parameters"].splitlines()
        if line and not line.startswith(" ")
        for word in line.partition(" : ")[0].split(",")
    }
    assert listed == set(inspect.signature(function).parameters)
