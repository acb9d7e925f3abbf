"""nilearn's functions, computed by gpuroi: same names, arguments, defaults and kinds of results.

Change ``from nilearn.mass_univariate import permuted_ols`` into ``from gpuroi.nilearn import permuted_ols`` and nothing
else. Where nilearn is wrong these are right, and the Notes of each say what differs. nilearn need not be installed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gpuroi._lazy import lazy_names

if TYPE_CHECKING:
    from gpuroi.nilearn.permuted_least_squares import permuted_ols
    from gpuroi.nilearn.second_level import non_parametric_inference

__all__ = ["non_parametric_inference", "permuted_ols"]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "gpuroi.nilearn.permuted_least_squares": ["permuted_ols"],
        "gpuroi.nilearn.second_level": ["non_parametric_inference"],
    },
)
