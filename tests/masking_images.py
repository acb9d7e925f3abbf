"""Images and masks for the tests of masking, and nilearn's answers without its warnings."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import nibabel
import numpy as np

SHAPE = (9, 8, 7)
AFFINE = np.diag([2.0, 3.0, 2.5, 1.0])


def nifti(values, affine=AFFINE):
    return nibabel.Nifti1Image(values, affine)


def data_of(image):
    return np.asarray(image.dataobj)


def random_mask():
    return nifti((np.random.default_rng(0).random(SHAPE) < 0.4).astype(np.uint8))


def answer(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """What a function returns, or the exception it raises."""
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        try:
            return function(*args, **kwargs)
        except Exception as error:
            return error
