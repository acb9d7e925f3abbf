"""Deterministic inputs: smooth noise and blobs in a head-shaped mask, made from seeds.

Volumes are 91 x 109 x 91 (2 mm MNI) in the full size. The same arrays come out on every machine, up to the rounding of
the filter that smooths the noise.
"""

from __future__ import annotations

import shutil
import tempfile
import weakref
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "SIZES",
    "Cohort",
    "FileSet",
    "MapBatch",
    "Run",
    "Sample",
    "Samples",
    "Size",
    "atlas",
    "brain_mask",
    "cohort",
    "file_set",
    "map_batch",
    "noise_maps",
    "run",
    "sample",
    "samples",
]

T = TypeVar("T")

VOXEL_MM = 2.0
_DISTINCT = 20  # maps beyond this number are shifted copies: a thousand of them are made in seconds
_BLOCK = 8  # volumes of one condition in a row


@dataclass(frozen=True)
class Size:
    """How large the inputs are."""

    name: str
    shape: tuple[int, int, int]
    maps: int  # volumes of a batch
    observations: int  # of a t-test
    labels: int  # of the atlas
    labelled_maps: int
    run_shape: tuple[int, int, int]
    run_volumes: int
    files: int
    subjects: int  # of a permutation test
    region_mm3: float  # smallest region that is kept
    parcel_subjects: int  # of a permutation test on parcels
    parcel_permutations: int
    learned_parcels: int  # of a parcellation of a run


_MNI = (91, 109, 91)
_EPI = (40, 64, 64)

SIZES = {
    "tiny": Size("tiny", (20, 22, 18), 3, 24, 8, 10, (16, 18, 14), 48, 4, 16, 60.0, 16, 64, 12),
    "full": Size("full", _MNI, 20, 200, 400, 200, _EPI, 200, 200, 100, 168.0, 1000, 5000, 1000),
    "large": Size("large", _MNI, 100, 1000, 400, 200, _EPI, 1000, 200, 1000, 168.0, 1000, 5000, 1000),
    "device": Size("device", _MNI, 1000, 1000, 400, 1000, _EPI, 1000, 200, 1000, 168.0, 1000, 5000, 1000),
}
"""`full` is what a laptop runs; `large` has 1000 observations; `device` fills a GPU with 1000 volumes."""


@dataclass
class MapBatch:
    """Statistical maps: `volumes` float32 (n, X, Y, Z), 0 outside `mask`; `labels` int32 (X, Y, Z)."""

    volumes: NDArray[np.float32]
    mask: NDArray[np.bool_]
    labels: NDArray[np.int32] | None = None
    region_mm3: float = 0.0  # smallest region that is kept

    def describe(self) -> dict[str, Any]:
        return {"shape": list(self.volumes.shape), "dtype": str(self.volumes.dtype), "order": _order(self.volumes[0])}


@dataclass
class Sample:
    """Observations, float32 (n, v)."""

    values: NDArray[np.float32]

    def describe(self) -> dict[str, Any]:
        return {"shape": [list(self.values.shape)], "dtype": "float32", "order": "C"}


@dataclass
class Samples:
    """Two groups of observations, float32 (n, v)."""

    a: NDArray[np.float32]
    b: NDArray[np.float32]

    def describe(self) -> dict[str, Any]:
        return {"shape": [list(self.a.shape), list(self.b.shape)], "dtype": "float32", "order": "C"}


@dataclass
class Cohort:
    """Maps of subjects, float32 (n, v), with a design whose first column is tested: group, intercept, age."""

    data: NDArray[np.float32]
    design: NDArray[np.float64]
    mask: NDArray[np.bool_]

    def describe(self) -> dict[str, Any]:
        return {"shape": [list(self.data.shape)], "dtype": "float32", "order": "C", "design": list(self.design.shape)}


@dataclass
class FileSet:
    """Maps as .nii.gz files, with their mask."""

    paths: list[Path]
    mask: NDArray[np.bool_]
    mask_path: Path
    dtype: str = "float32"

    def describe(self) -> dict[str, Any]:
        return {
            "files": len(self.paths),
            "shape": list(self.mask.shape),
            "dtype": self.dtype,
            "voxels_in_mask": int(self.mask.sum()),
            "packed_bytes": sum(p.stat().st_size for p in self.paths),
        }


@dataclass
class Run:
    """One 4-D run as an int16 .nii.gz file, with a condition for each volume and a mask."""

    path: Path
    conditions: list[str]
    mask_path: Path
    shape: tuple[int, int, int, int]
    zooms_mm: tuple[float, float, float]

    def describe(self) -> dict[str, Any]:
        return {"shape": list(self.shape), "dtype": "int16", "packed_bytes": self.path.stat().st_size}


def map_batch(size: Size, *, maps: int = 1, labels: bool = False, order: str = "C") -> MapBatch:
    """Maps of noise and blobs, 0 outside the mask; each volume in C or in Fortran (NIfTI) order."""
    mask = brain_mask(size.shape)
    volumes = noise_maps(size.shape, maps) * mask
    if order == "F":
        volumes = np.ascontiguousarray(volumes.transpose(0, 3, 2, 1)).transpose(0, 3, 2, 1)
    return MapBatch(volumes, mask, atlas(size.shape, size.labels) if labels else None)


def samples(size: Size) -> Samples:
    """Two groups of equal size; the second is shifted by half a standard deviation in every tenth element."""
    v = int(brain_mask(size.shape).sum())
    half = size.observations // 2
    rng = np.random.default_rng(1)
    a, b = (rng.standard_normal((n, v), dtype=np.float32) for n in (half, size.observations - half))
    b[:, ::10] += np.float32(0.5)
    return Samples(a, b)


def sample(size: Size) -> Sample:
    """One group, with a mean of half a standard deviation in every tenth element."""
    shape = (size.observations, int(brain_mask(size.shape).sum()))
    values = np.random.default_rng(6).standard_normal(shape, dtype=np.float32)
    values[:, ::10] += np.float32(0.5)
    return Sample(values)


def cohort(size: Size) -> Cohort:
    """Two groups of subjects of different age; three blobs tell the groups apart."""
    mask = brain_mask(size.shape)
    n = size.subjects
    rng = np.random.default_rng(7)
    group = np.arange(n) % 2
    age = rng.normal(40 + 5 * group, 10)
    effect = _blobs(size.shape, rng, n=3, sigma_vox=min(size.shape) / 15)[mask].astype(np.float32)
    data = noise_maps(size.shape, n)[:, mask]
    data += group[:, None].astype(np.float32) * effect
    return Cohort(data, np.column_stack([group, np.ones(n), age]), mask)


def file_set(size: Size, *, dtype: str = "float32") -> FileSet:
    """Write the maps, at the compression that nibabel uses; of whole numbers they are in thousandths."""
    folder = _new_folder()
    mask = brain_mask(size.shape)
    affine = np.diag([VOXEL_MM, VOXEL_MM, VOXEL_MM, 1.0])
    paths = [folder / f"sub-{i:03d}_map.nii.gz" for i in range(size.files)]
    for path, volume in zip(paths, noise_maps(size.shape, size.files), strict=True):
        values = volume * mask
        _write(path, values if dtype == "float32" else np.rint(1000 * values).astype(dtype), affine)
    mask_path = folder / "mask.nii.gz"
    _write(mask_path, mask.astype(np.uint8), affine)
    return _owning(FileSet(paths, mask, mask_path, dtype), folder)


def run(size: Size) -> Run:
    """A run in which faces, houses and rests follow each other in blocks, and two blobs tell faces from houses."""
    folder = _new_folder()
    zooms_mm = (3.5, 3.75, 3.75)
    inside = brain_mask(size.run_shape)
    conditions = [("face", "house", "rest")[i // _BLOCK % 3] for i in range(size.run_volumes)]
    sign = np.array([{"face": 1.0, "house": -1.0, "rest": 0.0}[c] for c in conditions])
    effect = _blobs(size.run_shape, np.random.default_rng(2), n=2, sigma_vox=min(size.run_shape) / 12) * 60.0
    volumes = np.empty((*size.run_shape, size.run_volumes), np.int16, order="F")
    for i in range(size.run_volumes):
        noise = np.random.default_rng([3, i]).standard_normal(size.run_shape) * 20.0
        volumes[..., i] = np.rint(np.where(inside, 800.0 + effect * sign[i] + noise, 0.0))
    affine = np.diag([*zooms_mm, 1.0])
    path, mask_path = folder / "run.nii.gz", folder / "mask.nii.gz"
    _write(path, volumes, affine)
    _write(mask_path, inside.astype(np.uint8), affine)
    return _owning(Run(path, conditions, mask_path, volumes.shape, zooms_mm), folder)


@lru_cache(maxsize=2)
def brain_mask(shape: tuple[int, int, int]) -> NDArray[np.bool_]:
    """An ellipsoid with a quarter of the voxels: 235 thousand of 91 x 109 x 91, as the MNI brain."""
    axes = [np.linspace(-1.0, 1.0, n) / 0.801 for n in shape]
    x, y, z = np.meshgrid(*axes, indexing="ij", sparse=True)
    mask = np.asarray(x * x + y * y + z * z <= 1.0)
    mask.flags.writeable = False
    return mask


@lru_cache(maxsize=2)
def atlas(shape: tuple[int, int, int], n_labels: int) -> NDArray[np.int32]:
    """Every voxel of the mask belongs to the nearest of `n_labels` random voxels."""
    from scipy.spatial import KDTree

    voxels = np.argwhere(brain_mask(shape))
    seeds = np.random.default_rng(4).choice(voxels, n_labels, replace=False)
    labels = np.zeros(shape, np.int32)
    labels[tuple(voxels.T)] = KDTree(seeds).query(voxels)[1] + 1
    labels.flags.writeable = False
    return labels


def noise_maps(shape: tuple[int, int, int], n: int) -> NDArray[np.float32]:
    """Maps (n, X, Y, Z) of smooth noise with standard deviation 1 and ten blobs of height 4, half of them negative."""
    distinct = _distinct_maps(shape, min(n, _DISTINCT))
    out = np.empty((n, *shape), np.float32)
    for i in range(n):
        out[i] = np.roll(distinct[i % _DISTINCT], 3 * (i // _DISTINCT), axis=0)
    return out


@lru_cache(maxsize=2)
def _distinct_maps(shape: tuple[int, int, int], n: int) -> NDArray[np.float32]:
    from scipy.ndimage import gaussian_filter

    maps = np.empty((n, *shape), np.float32)
    for i in range(n):
        rng = np.random.default_rng([5, i])
        noise = gaussian_filter(rng.standard_normal(shape, dtype=np.float32), 1.3)
        blobs = _blobs(shape, rng, n=5, sigma_vox=min(shape) / 30) - _blobs(shape, rng, n=5, sigma_vox=min(shape) / 30)
        maps[i] = noise / noise.std() + 4.0 * blobs
    maps.flags.writeable = False
    return maps


def _blobs(shape: tuple[int, int, int], rng: np.random.Generator, *, n: int, sigma_vox: float) -> NDArray[np.float64]:
    """Gaussian blobs of height 1 at random places in the middle of the volume."""
    total = np.zeros(shape)
    for _ in range(n):
        profiles = [
            np.exp(-0.5 * ((np.arange(size) - rng.uniform(0.3, 0.7) * size) / sigma_vox) ** 2) for size in shape
        ]
        total += np.einsum("i,j,k->ijk", *profiles)
    return total


def _new_folder() -> Path:
    return Path(tempfile.mkdtemp(prefix="gpuroi-bench-"))


def _owning(made: T, folder: Path) -> T:
    """The input, with which its folder goes."""
    weakref.finalize(made, shutil.rmtree, folder, ignore_errors=True)
    return made


def _write(path: Path, values: NDArray[Any], affine: NDArray[np.float64]) -> None:
    import nibabel

    make: Any = nibabel.Nifti1Image  # untyped there
    make(values, affine).to_filename(path)


def _order(volume: NDArray[Any]) -> str:
    return "C" if volume.flags.c_contiguous else "F"
