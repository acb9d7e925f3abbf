"""Arrays that break careless code: every op meets all of them."""

from __future__ import annotations

import numpy as np

SHAPE = (7, 6, 9)


def _noise(seed: int = 0, shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def _read_only() -> np.ndarray:
    data = _noise(1)
    data.setflags(write=False)
    return data


def _with(value: float, where: tuple[int, ...] = (2, 3, 4)) -> np.ndarray:
    data = _noise(2)
    data[where] = value
    return data


HOSTILE: dict[str, np.ndarray] = {
    "empty-batch": np.zeros((0, 3, 4, 5), np.float32),
    "empty-axis": np.zeros((2, 3, 0, 5), np.float32),
    "one-voxel": np.ones((1, 1, 1), np.float32),
    "one-slice": _noise(3, (8, 9, 1)),
    "one-row": _noise(4, (1, 1, 70)),
    "longer-than-a-word": _noise(5, (2, 3, 130)),
    "all-true": np.ones(SHAPE, np.float32),
    "all-false": np.zeros(SHAPE, np.float32),
    "minus-zero": -np.zeros(SHAPE, np.float32),
    "nan": _with(np.nan),
    "all-nan": np.full(SHAPE, np.nan, np.float32),
    "inf": _with(np.inf),
    "minus-inf": _with(-np.inf),
    "mean-1e6": _noise(6) + np.float32(1e6),
    "float64": _noise(7).astype(np.float64),
    "float16": _noise(8).astype(np.float16),
    "int16": (100 * _noise(9)).astype(np.int16),
    "uint8": np.abs(20 * _noise(10)).astype(np.uint8),
    "int64": (1000 * _noise(11)).astype(np.int64),
    "bool": _noise(12) > 0,
    "big-endian": _noise(13).astype(">f4"),
    "big-endian-int": (100 * _noise(14)).astype(">i2"),
    "fortran": np.asfortranarray(_noise(15)),
    "nifti-4d": np.asfortranarray(_noise(16, (*SHAPE, 3))).transpose(3, 0, 1, 2),
    "negative-strides": _noise(17)[::-1, :, ::-1],
    "every-other": _noise(18, (14, 6, 18))[::2, :, ::2],
    "transposed": _noise(19, (9, 7, 6)).transpose(1, 2, 0),
    "read-only": _read_only(),
    "batch-of-batches": _noise(20, (2, 3, *SHAPE)),
}
