"""nilearn's checks of arguments, with its exceptions and the wording that its users know."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from gpuroi.errors import UsageError

__all__ = ["check_types", "n_threads_of", "seed_of"]

_INTEGER = (int, np.integer)
_TYPES: dict[str, tuple[type, ...]] = {
    "border_size": _INTEGER,
    "cluster_threshold": _INTEGER,
    "connected": (bool, np.bool_),
    "copy_header": (bool,),
    "detrend": (bool,),
    "force_resample": (bool,),
    "high_pass": (float, np.floating, *_INTEGER, type(None)),
    "keep_masked_labels": (bool,),
    "keep_masked_maps": (bool,),
    "low_pass": (float, np.floating, *_INTEGER, type(None)),
    "lower_cutoff": (float, np.floating),
    "memory_level": _INTEGER,
    "n_jobs": _INTEGER,
    "n_perm": _INTEGER,
    "opening": (bool, *_INTEGER),
    "random_state": (*_INTEGER, np.random.RandomState, type(None)),
    "smoothing_fwhm": (float, np.floating, *_INTEGER, type(None)),
    "standardize_confounds": (bool,),
    "t_r": (float, np.floating, *_INTEGER, type(None)),
    "target_affine": (np.ndarray, list, tuple, type(None)),
    "target_shape": (tuple, list, np.ndarray, type(None)),
    "tfce": (bool, np.bool_),
    "threshold": (float, np.floating, *_INTEGER, type(None)),
    "two_sided_test": (bool, np.bool_),
    "upper_cutoff": (float, np.floating),
    "verbose": (bool, *_INTEGER),
}


def check_types(**arguments: Any) -> None:
    """Raise TypeError unless each argument has a type that nilearn accepts; True is no number."""
    for name, value in arguments.items():
        allowed = _TYPES[name]
        if not isinstance(value, allowed) or (isinstance(value, bool) and bool not in allowed):
            expected = ", ".join(kind.__name__ for kind in allowed)
            raise TypeError(f"'{name}' must be of type(s): '{expected}'.\nGot: '{type(value).__name__}'")


def n_threads_of(n_jobs: int) -> int:
    """Return the number of threads that `n_jobs` asks for, by joblib's conventions: -1 is all processors.

    Raises
    ------
    UsageError
        If it is 0.
    """
    if n_jobs == 0:
        raise UsageError(
            "'n_jobs == 0' is not a valid choice. Please provide a positive number of CPUs, or -1 for all CPUs, or a "
            "negative number (-i) for 'all but (i-1)' CPUs (joblib conventions)."
        )
    n_processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(int(n_jobs), n_processors) if n_jobs > 0 else max(1, n_processors + 1 + int(n_jobs))


def seed_of(random_state: Any) -> int:
    """Return the seed that `random_state` stands for: itself, or a number drawn from a generator.

    None draws from NumPy's global generator, as in nilearn, so that `numpy.random.seed` still decides.
    """
    if isinstance(random_state, _INTEGER):
        if random_state < 0:
            raise UsageError(f"random_state is {random_state}", "use a seed of 0 or more")
        return int(random_state)
    draw = np.random.randint if random_state is None else random_state.randint
    return int(draw(1, np.iinfo(np.int32).max - 1))
