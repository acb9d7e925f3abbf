"""The documentation site: `make docs` builds it, without a network, into docs/_build/html."""

from __future__ import annotations

import logging
import os
import re
import shutil
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "docs")]  # benchmarks and the modules of tables are not installed
os.environ.setdefault("GPUROI_DEVICE", "cpu")  # the gallery looks the same everywhere
logging.getLogger("gpuroi").setLevel(logging.WARNING)

from benchmark_tables import error_tables, speed_tables  # noqa: E402
from scaling_tables import with_scaling  # noqa: E402

import gpuroi  # noqa: E402

project = "gpuroi"
author = "The gpuroi developers"
copyright = author
version = release = gpuroi.__version__

extensions = [
    "myst_parser",
    "numpydoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx_copybutton",
    "sphinx_gallery.gen_gallery",
]
exclude_patterns = ["_build", "_templates", "gallery", "images/make.sh"]
templates_path = ["_templates"]
default_role = "py:obj"
suppress_warnings = [
    "config.cache",  # functions in the settings of the gallery
    "ref.python",  # `.labels` in a docstring is an attribute of what it speaks of, whatever else has one
]

html_theme = "furo"
html_math_renderer = "mathml"
html_title = f"gpuroi {release}"
pygments_dark_style = "monokai"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False

myst_heading_anchors = 3
copybutton_prompt_text = r"\$ |>>> |\.\.\. "
copybutton_prompt_is_regexp = True

autosummary_generate = True
autosummary_ignore_module_all = False
autosummary_imported_members = True
autodoc_typehints = "none"  # the docstrings say it in words
numpydoc_show_class_members = False
numpydoc_class_members_toctree = False


def gallery_order(file: str) -> int:
    """The order in which the gallery is read: one run, a cohort, then single steps, then parcels."""
    order = ("roi_from", "screen_a", "many_", "regions_of", "threshold_an", "threshold_parcels", "parcellate")
    return next(number for number, start in enumerate(order) if Path(file).name.startswith(start))


def tidy_up(gallery_conf: dict[str, Any], source: str, when: str) -> None:
    """Cut the margins off figures, and remove what a script has written, which would pass for examples."""
    import matplotlib.pyplot as plt

    plt.rcParams["savefig.bbox"] = "tight"
    if when == "after":
        shutil.rmtree(ROOT / "docs" / "gallery" / "demo", ignore_errors=True)


sphinx_gallery_conf = {
    "examples_dirs": ["gallery"],
    "gallery_dirs": ["examples"],
    "filename_pattern": r"\.py$",
    "within_subsection_order": gallery_order,
    "reset_modules": ("matplotlib", tidy_up),
    "reset_modules_order": "both",
    "doc_module": ("gpuroi",),
    "backreferences_dir": "_build/uses",
    "copyfile_regex": r"(?!)",
    "download_all_examples": False,
    "show_signature": False,
    "show_memory": False,
    "write_computation_times": False,
    "min_reported_time": 10_000,
    "abort_on_example_error": True,
}


def setup(app: Any) -> None:
    app.add_html_math_renderer("mathml", (show_formula, None), (show_formula, None))
    app.connect("source-read", add_benchmarks)
    app.connect("autodoc-process-docstring", escape_symbols, priority=100)  # before numpydoc
    app.connect("autodoc-skip-member", skip_inherited)


def show_formula(translator: Any, node: Any) -> None:
    """Write a formula as MathML, which browsers show by themselves; MathJax would come from the network."""
    from docutils import nodes
    from docutils.utils.math.latex2mathml import tex2mathml

    translator.body.append(tex2mathml(node.astext(), as_block=isinstance(node, nodes.math_block)))
    raise nodes.SkipNode


def add_benchmarks(app: Any, name: str, source: list[str]) -> None:
    """Put tables made from the result files in place of their markers."""
    for what, tables in (("speed", speed_tables), ("error", error_tables)):
        marker = f"<!-- benchmarks: {what} -->"
        if marker in source[0]:
            source[0] = source[0].replace(marker, tables())
    if name == "scaling":
        source[0] = with_scaling(source[0], ROOT / "docs" / "_build" / "scaling.png")


def escape_symbols(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Let ``|x|`` be an absolute value, a_ a name and a * b a product, as our docstrings mean them."""
    for i, line in enumerate(lines):
        if not line.lstrip().startswith((">>>", "..")):
            parts = re.split(r"(``.+?``|`[^`]+`)", line)
            lines[i] = "".join(part if k % 2 else _SYMBOLS.sub(r"\\\g<0>", part) for k, part in enumerate(parts))


_SYMBOLS = re.compile(r"\||(?<=\w)_(?!\w)|(?<=[\s(])\*(?=\w)|(?<=\S)\*(?=\S)")


def skip_inherited(app: Any, what: str, name: str, obj: Any, skip: bool, options: Any) -> bool | None:
    """Leave out what scikit-learn adds to each estimator."""
    return True if re.fullmatch(r"set_\w+_request|get_metadata_routing|set_output", name) else None
