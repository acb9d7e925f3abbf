"""Voxels of a mask to rows and back: against NumPy's indexing and nibabel's scaling, in several interleavings."""

from __future__ import annotations

from typing import Any

import nibabel as nib
import numpy as np
import pytest
from rig.checking import check, host
from rig.host_kernels import interleaving
from rig.standin_device import Meter

from gpuroi.backends import cuda_kernels
from gpuroi.backends.base import Backend
from gpuroi.errors import BackendError

STORED = ["int8", "uint8", "int16", "uint16", "int32", "uint32", "float32", "float64", "bool"]
SHAPES = [(1, 1, 1), (5, 6, 7), (33, 2, 40), (3, 1, 70), (64, 1, 32)]


def columns_of(inside: np.ndarray) -> np.ndarray:
    """Column of each voxel, in NumPy's order of `volume[inside]`."""
    columns = np.full(inside.shape, -1, np.int32)
    columns[inside] = np.arange(np.count_nonzero(inside))
    return columns


def nifti_order(volumes: np.ndarray) -> np.ndarray:
    return np.asfortranarray(volumes.transpose(1, 2, 3, 0)).transpose(3, 0, 1, 2)


@pytest.fixture(params=[0, 1, 6], ids=lambda seed: f"seed{seed}")
def schedule(request: pytest.FixtureRequest) -> Any:
    with interleaving(request.param, 3):
        yield


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_rows_are_those_of_numpys_index(schedule: Any, backend: Backend, shape: tuple[int, ...], turned: bool) -> None:
    rng = np.random.default_rng(0)
    inside = rng.random(shape) < 0.6
    columns = columns_of(inside)
    for n, stored in [(1, "int16"), (8, "float32"), (11, "int16"), (3, "uint8")]:
        volumes = rng.integers(0, 100, (n, *shape)).astype(stored)
        there = backend.asarray(nifti_order(volumes) if turned else volumes)
        rows = backend.gather(there, backend.asarray(columns), int(inside.sum()), None, np.float32)
        check(rows, volumes[:, inside].astype(np.float32), backend=backend)
        for order in "CF":
            back = backend.scatter(rows, backend.asarray(columns), np.nan, order)
            check(back, np.where(inside, volumes, np.nan).astype(np.float32), backend=backend)
            one = back[0]
            assert one.flags.f_contiguous if order == "F" else one.flags.c_contiguous


@pytest.mark.parametrize("stored", STORED)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_every_stored_type_is_scaled_as_nibabel_scales_it(backend: Backend, stored: str, dtype: Any) -> None:
    rng = np.random.default_rng(1)
    shape = (6, 5, 4)
    kind = np.dtype(stored)
    if kind.kind in "iu":
        volumes = rng.integers(np.iinfo(kind).min, np.iinfo(kind).max, (2, *shape), dtype=kind, endpoint=True)
    else:
        volumes = 1e3 * rng.standard_normal((2, *shape)) > 0 if stored == "bool" else rng.standard_normal((2, *shape))
    volumes = volumes.astype(kind)
    scaling = np.array([[0.013, -7.1], [3e-5, 1e6]])
    inside = rng.random(shape) < 0.5
    rows = backend.gather(
        backend.asarray(nifti_order(volumes)), backend.asarray(columns_of(inside)), int(inside.sum()), scaling, dtype
    )
    want = [
        nib.volumeutils.apply_read_scaling(v[inside].astype(np.float64), *pair)
        for v, pair in zip(volumes, scaling, strict=True)
    ]
    check(rows, np.stack(want).astype(dtype), backend=backend)


def test_a_mask_of_nothing_and_a_batch_of_nothing(backend: Backend) -> None:
    columns = backend.asarray(np.full((2, 3, 4), -1, np.int32))
    volumes = backend.asarray(np.ones((2, 2, 3, 4), np.int16))
    check(backend.gather(volumes, columns, 0, None, np.float32), np.empty((2, 0), np.float32), backend=backend)
    check(backend.gather(volumes[:0], columns, 0, None, np.float32), np.empty((0, 0), np.float32), backend=backend)
    empty = backend.scatter(backend.asarray(np.empty((1, 0), np.float32)), columns, 2.0, "F")
    check(empty, np.full((1, 2, 3, 4), 2, np.float32), backend=backend)


@pytest.mark.kernels
def test_one_launch_each_and_nothing_waits(
    standin_cupy: Any, device_meter: Meter, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gpuroi.backends.cuda import cuda_backend

    cuda = cuda_backend(0)
    inside = np.random.default_rng(2).random((9, 8, 7)) < 0.5
    columns, w = cuda.asarray(columns_of(inside)), int(inside.sum())
    stored = nifti_order(np.arange(20 * 504).reshape(20, 9, 8, 7).astype(np.int16))
    volumes = cuda.asarray(stored)
    device_meter.reset()
    rows = cuda.gather(volumes, columns, w, np.ones((20, 2)), np.float32)
    back = cuda.scatter(rows, columns, 0.0, "F")
    assert device_meter.launches == {"mask_gather_turned": 1, "mask_scatter_turned": 1}
    assert (device_meter.syncs, device_meter.d2h_bytes, device_meter.h2d_bytes) == (0, 0, 20 * 16)
    monkeypatch.setattr(cuda_kernels, "_MOST_BLOCKS", (1, 1))  # one block strides over all
    check(cuda.gather(volumes, columns, w, np.ones((20, 2)), np.float32), host(rows), backend=cuda)
    check(cuda.scatter(rows, columns, 0.0, "F"), host(back), backend=cuda)


@pytest.mark.kernels
def test_what_the_kernels_do_not_take_is_refused(standin_cupy: Any) -> None:
    from gpuroi.backends.cuda import cuda_backend

    cuda = cuda_backend(0)
    columns = cuda.asarray(np.zeros((1, 1, 1), np.int32))
    with pytest.raises(BackendError, match="voxels are complex64"):
        cuda.gather(cuda.xp.zeros((1, 1, 1, 1), np.complex64), columns, 1, None, np.float32)
    with pytest.raises(BackendError, match="rows are int16"):
        cuda.scatter(cuda.xp.zeros((1, 1), np.int16), columns, 0.0, "C")
    with pytest.raises(BackendError, match=r"columns are \(1, 1, 1\), volumes \(2, 1, 1\)"):
        cuda.gather(cuda.xp.zeros((1, 2, 1, 1), np.int16), columns, 1, None, np.float32)
