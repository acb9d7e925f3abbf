"""The literature that the reports cite."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["citation", "references"]

_TOOLS = ("numpy", "scipy", "numba", "matplotlib")
_CITATIONS = {
    "student": ("Student. The probable error of a mean. Biometrika 6, 1908.", "10.1093/biomet/6.1.1"),
    "welch": (
        "Welch BL. The generalization of Student's problem when several different population variances are involved. "
        "Biometrika 34, 1947.",
        "10.1093/biomet/34.1-2.28",
    ),
    "circular": (
        "Kriegeskorte N, Simmons WK, Bellgowan PSF, Baker CI. Circular analysis in systems neuroscience: the dangers "
        "of double dipping. Nature Neuroscience 12, 2009.",
        "10.1038/nn.2303",
    ),
    "label": (
        "Rosenfeld A, Pfaltz JL. Sequential operations in digital picture processing. Journal of the ACM 13, 1966 "
        "(connected components).",
        "10.1145/321356.321357",
    ),
    "glm": (
        "Winkler AM, Ridgway GR, Webster MA, Smith SM, Nichols TE. Permutation inference for the general linear model. "
        "NeuroImage 92, 2014.",
        "10.1016/j.neuroimage.2014.01.060",
    ),
    "freedman-lane": (
        "Freedman D, Lane D. A nonstochastic interpretation of reported significance levels. Journal of Business & "
        "Economic Statistics 1, 1983.",
        "10.1080/07350015.1983.10509354",
    ),
    "maxima": (
        "Nichols TE, Holmes AP. Nonparametric permutation tests for functional neuroimaging: a primer with examples. "
        "Human Brain Mapping 15, 2002.",
        "10.1002/hbm.1058",
    ),
    "identity": (
        "Phipson B, Smyth GK. Permutation p-values should never be zero. Statistical Applications in Genetics and "
        "Molecular Biology 9, 2010.",
        "10.2202/1544-6115.1585",
    ),
    "blocks": (
        "Winkler AM, Webster MA, Vidaurre D, Nichols TE, Smith SM. Multi-level block permutation. NeuroImage 123, "
        "2015.",
        "10.1016/j.neuroimage.2015.05.092",
    ),
    "tail": (
        "Winkler AM, Ridgway GR, Douaud G, Nichols TE, Smith SM. Faster permutation inference in brain imaging. "
        "NeuroImage 141, 2016.",
        "10.1016/j.neuroimage.2016.05.068",
    ),
    "tfce": (
        "Smith SM, Nichols TE. Threshold-free cluster enhancement: addressing problems of smoothing, threshold "
        "dependence and localisation in cluster inference. NeuroImage 44, 2009.",
        "10.1016/j.neuroimage.2008.03.061",
    ),
    "fdr": (
        "Benjamini Y, Hochberg Y. Controlling the false discovery rate: a practical and powerful approach to multiple "
        "testing. Journal of the Royal Statistical Society B 57, 1995.",
        "10.1111/j.2517-6161.1995.tb02031.x",
    ),
    "numpy": ("Harris CR et al. Array programming with NumPy. Nature 585, 2020.", "10.1038/s41586-020-2649-2"),
    "scipy": (
        "Virtanen P et al. SciPy 1.0: fundamental algorithms for scientific computing in Python. Nature Methods 17, "
        "2020.",
        "10.1038/s41592-019-0686-2",
    ),
    "numba": (
        "Lam SK, Pitrou A, Seibert S. Numba: a LLVM-based Python JIT compiler. LLVM-HPC, 2015.",
        "10.1145/2833157.2833162",
    ),
    "matplotlib": (
        "Hunter JD. Matplotlib: a 2D graphics environment. Computing in Science & Engineering 9, 2007.",
        "10.1109/MCSE.2007.55",
    ),
}
_CUPY = "Okuta R et al. CuPy: a NumPy-compatible library for NVIDIA GPU calculations. LearningSys at NIPS, 2017."


def citation(key: str) -> tuple[str, str]:
    """Return a reference and its DOI.

    Examples
    --------
    >>> citation("numpy")[1]
    '10.1038/s41586-020-2649-2'
    """
    return _CITATIONS[key]


def references(methods: Sequence[str], device: str) -> str:
    """Return the references of the methods, then of the software, as an HTML list.

    Parameters
    ----------
    methods : sequence of {"student", "welch", "circular", "label"}
    device : str
        "cuda:0" adds CuPy.
    """
    items = []
    for text, doi in (_CITATIONS[key] for key in (*methods, *_TOOLS)):
        items.append(f'{escape(text)} <a href="https://doi.org/{doi}">doi:{doi}</a>')
    if device.startswith("cuda"):
        items.append(escape(_CUPY))
    return f"<ol>{''.join(f'<li>{item}</li>' for item in items)}</ol>"
