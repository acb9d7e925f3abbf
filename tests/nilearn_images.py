"""Images for the tests of gpuroi.nilearn, and what it means that two are equal."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from nibabel.nifti1 import Nifti1Image
from nilearn.surface import InMemoryMesh, PolyMesh, SurfaceImage
from scipy import ndimage

AFFINE = np.diag([2.0, 3.0, 4.0, 1.0])
REAL = [
    "atlas/*.nii.gz",
    "epi_oro/**/*.nii.gz",
    "haxby2001_pymvpa/**/*.nii.gz",
    "lesymap131/**/*403areas.nii.gz",
    "lesymap131/lesions/Subject_001.nii.gz",
    "nimare_pain21/**/*.nii.gz",
    "oblique_dcmqa/*.nii",
    "orient48/*.nii*",
    "statmaps/*.nii.gz",
    "ugly_nibabel/*",
    "wager2008_emoreg/con_0081000[1-3].img",
]


def real_images(folder: Path, *, largest: int = 60_000_000) -> Iterator[tuple[str, Any]]:
    """Name and image of every file that nibabel can read; huge ones left out."""
    for path in sorted({path for pattern in REAL for path in folder.glob(pattern)}):
        try:
            img = nibabel.load(path)
            size = int(np.prod(img.shape)) * 8
            if len(img.shape) >= 3 and size <= largest:
                np.asanyarray(img.dataobj[..., :1])
                yield str(path), img
        except (nibabel.filebasedimages.ImageFileError, OSError, AttributeError, ImportError):
            continue  # texts, and halves of pairs


def as_nifti(img: Any) -> Nifti1Image:
    """What nilearn takes: NIfTI in native byte order."""
    return img if isinstance(img, Nifti1Image) else Nifti1Image(np.asanyarray(img.dataobj), img.affine)


def quietly(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return function(*args, **kwargs)


def check(got: Any, want: Any, *, rtol: float = 0.0, atol: float = 0.0) -> None:
    """Same shape, affine, type but for the order of bytes, and values."""
    assert got.shape == want.shape
    np.testing.assert_array_equal(got.affine, want.affine)
    data, expected = np.asanyarray(got.dataobj), np.asanyarray(want.dataobj)
    assert data.dtype == expected.dtype.newbyteorder("=")
    if rtol or atol:
        np.testing.assert_allclose(data, expected, rtol=rtol, atol=atol)
    else:
        np.testing.assert_array_equal(data, expected)


def check_headers(got: Any, want: Any) -> None:
    """Same header but for the order of bytes and the range of the values."""
    if not isinstance(got, Nifti1Image):
        return
    fields = dict(got.header.as_byteswapped("<").items())
    for name, value in want.header.as_byteswapped("<").items():
        np.testing.assert_array_equal(fields[name], value, err_msg=name)


def volume(rng: np.random.Generator, shape: tuple[int, ...] = (12, 11, 10), dtype: str = "float32") -> Nifti1Image:
    data = ndimage.gaussian_filter(rng.standard_normal(shape), (1, 1, 1, *(0,) * (len(shape) - 3)))
    return Nifti1Image((100 * data / data.std()).astype(dtype), AFFINE)


def brain(rng: np.random.Generator, n_maps: int = 0) -> SurfaceImage:
    """Two bands of triangles; the right one has a vertex alone."""
    parts = {}
    for name, n in (("left", 40), ("right", 31)):
        vertices = np.column_stack([np.arange(n) / 2, np.arange(n) % 2, np.zeros(n)])
        last = n - 2 if name == "left" else n - 3
        faces = np.array([[i, i + 1, i + 2] for i in range(last)])
        parts[name] = InMemoryMesh(vertices, faces)
    shape = (n_maps,) if n_maps else ()
    data = {name: rng.standard_normal((part.n_vertices, *shape)) for name, part in parts.items()}
    return SurfaceImage(PolyMesh(**parts), data)
