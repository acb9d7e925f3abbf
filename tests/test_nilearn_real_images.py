"""Every drop-in on every real image that is not huge, against nilearn: as read from the file, and on CUDA in part.

The images: one head in 48 orientations, maps with NaN, scaled int16, NIfTI-2, Analyze pairs, MGZ, AFNI, MINC, oblique
and big-endian ones, atlases. nilearn gets each as NIfTI in native byte order, which is all that every function of it
takes; ours gets the file. Headers and larger images are compared in the tests of each function.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import nilearn.glm
import nilearn.image
import nilearn.masking
import nilearn.regions
import nilearn.reporting
import numpy as np
import pandas as pd
import pytest
from nibabel.nifti1 import Nifti1Image
from nilearn_images import check, quietly, real_images

import gpuroi.nilearn as ours

_LARGEST = 8_000_000  # bytes of float64: 91 x 109 x 91 is in, series of whole brains are not
_PART = 14  # voxels along each axis that the stand-in computes


class Row(NamedTuple):
    """A function of nilearn's, and a call of it or of its twin."""

    module: Any
    name: str
    call: Callable[[Callable[..., Any], Any, Nifti1Image], Any]  # (function, image to give, the same to look at)
    rtol: float = 0.0
    for_nilearn: Callable[[Nifti1Image], Nifti1Image] = lambda img: img  # where it would fail on the image as it is


def _finite(img: Nifti1Image) -> Nifti1Image:
    """Without NaN, by which nilearn divides a map into regions that are all NaN."""
    data = np.asanyarray(img.dataobj)
    return img if data.dtype.kind != "f" else Nifti1Image(np.where(np.isfinite(data), data, 0), img.affine)


def _tabled(img: Nifti1Image) -> Nifti1Image:
    """Finite, or nilearn takes minutes; not of uint8, which it negates."""
    data = np.asanyarray(_finite(img).dataobj)
    return Nifti1Image(data.astype(np.int16) if data.dtype == np.uint8 else data, img.affine)


def _voxel_mm3(img: Nifti1Image) -> float:
    return float(abs(np.linalg.det(img.affine[:3, :3])))


def _high(img: Nifti1Image, q: float) -> float:
    return float(np.percentile(np.abs(np.nan_to_num(np.asanyarray(img.dataobj).astype(np.float64))), q))


def _mask(img: Nifti1Image) -> Nifti1Image:
    data = np.asanyarray(img.dataobj)
    first = data.reshape(*data.shape[:3], -1)[..., 0]
    return Nifti1Image((np.nan_to_num(first) != 0).astype(np.uint8), img.affine)


def _blocks(img: Nifti1Image) -> Nifti1Image:
    """An atlas of blocks: sparse ids, above 127, without 0 in places."""
    i, j, k = (np.arange(n) * 3 // max(n, 1) for n in img.shape[:3])
    ids = 100 * (25 * i[:, None, None] + 5 * j[:, None] + k)
    return Nifti1Image(ids.astype(np.int32), img.affine)


def _levels(img: Nifti1Image) -> Nifti1Image:
    """The image in three levels, in pieces."""
    data = np.asanyarray(img.dataobj)
    first = np.nan_to_num(data.reshape(*data.shape[:3], -1)[..., 0].astype(np.float64))
    coarse = first[::3, ::3, ::3].repeat(3, 0).repeat(3, 1).repeat(3, 2)[tuple(slice(n) for n in first.shape)]
    cuts = np.unique(np.quantile(coarse, [0.8, 0.9, 0.97]))
    return Nifti1Image(np.searchsorted(cuts, coarse).astype(np.int16) * 130, img.affine)


def _as_list(given: Any, img: Nifti1Image) -> Any:
    return given if len(img.shape) == 4 else [given]


ROWS = {
    "threshold at a percentile, clusters": Row(
        nilearn.image, "threshold_img", lambda f, given, img: f(given, "95%", cluster_threshold=3)
    ),
    "threshold at a value, one-sided": Row(
        nilearn.image, "threshold_img", lambda f, given, img: f(given, _high(img, 90), two_sided=False)
    ),
    "connected components": Row(
        nilearn.regions,
        "connected_regions",
        lambda f, given, img: f(given, 27 * _voxel_mm3(img), extract_type="connected_components"),
        for_nilearn=_finite,
    ),
    "connected pieces of labels": Row(
        nilearn.regions, "connected_label_regions", lambda f, given, img: f(_levels(img), 20 * _voxel_mm3(img))
    ),
    "means of labels": Row(
        nilearn.regions,
        "img_to_signals_labels",
        lambda f, given, img: f(_as_list(given, img), _blocks(img))[:2],
        rtol=1e-12,  # the order of a sum in float64
    ),
    "medians of labels in a mask": Row(
        nilearn.regions,
        "img_to_signals_labels",
        lambda f, given, img: f(_as_list(given, img), _blocks(img), _mask(img), strategy="median")[:2],
    ),
    "table of clusters, two-sided": Row(
        nilearn.reporting,
        "get_clusters_table",
        lambda f, given, img: f(given, _high(img, 99.5), 20, two_sided=True),
        for_nilearn=_tabled,
    ),
    "table of clusters, one-sided": Row(
        nilearn.reporting,
        "get_clusters_table",
        lambda f, given, img: f(given, _high(img, 99.5), 20, min_distance=20.0),
        for_nilearn=_tabled,
    ),
    "values in a mask": Row(nilearn.masking, "apply_mask", lambda f, given, img: f(given, _mask(img))),
    "smoothed values in a mask": Row(
        nilearn.masking, "apply_mask", lambda f, given, img: f(given, _mask(img), smoothing_fwhm=5.0), rtol=1e-5
    ),
    "mask from images": Row(nilearn.masking, "compute_epi_mask", lambda f, given, img: f(given)),
    "false discovery rate": Row(
        nilearn.glm,
        "threshold_stats_img",
        lambda f, given, img: f(given, alpha=0.05, height_control="fdr", cluster_threshold=2),
    ),
    "mean": Row(nilearn.image, "mean_img", lambda f, given, img: f(given), rtol=1e-6),
    "smoothing": Row(nilearn.image, "smooth_img", lambda f, given, img: f(given, 6.0), rtol=1e-5),
    "smoothing with neighbours": Row(nilearn.image, "smooth_img", lambda f, given, img: f(given, "fast"), rtol=1e-5),
}


@pytest.fixture(scope="module")
def images(open_data: Path) -> dict[str, Nifti1Image]:
    """File and image, for nilearn; of files alike (folder, grid, type, with NaN or not) one, but every orientation."""
    found: dict[Any, tuple[str, Nifti1Image]] = {}
    for path, img in real_images(open_data, largest=_LARGEST):
        data = np.asanyarray(img.dataobj)
        folder = Path(path).relative_to(open_data).parts[0]
        alike = (folder, img.shape, str(img.get_data_dtype()), bool(np.isnan(data).any()))
        native = Nifti1Image(data.astype(data.dtype.newbyteorder("="), order="K"), img.affine)
        found.setdefault(path if folder == "orient48" else alike, (path, native))
    return dict(found.values())


@pytest.fixture(scope="module")
def parts(images: dict[str, Nifti1Image]) -> dict[str, Nifti1Image]:
    """The middle of each image."""
    middle = {}
    for path, img in images.items():
        where = tuple(slice(max(0, (n - _PART) // 2), (n + _PART) // 2) for n in img.shape[:3])
        middle[path] = img.slicer[where]
    return middle


def test_all_kinds_are_among_them(images: dict[str, Nifti1Image]) -> None:
    assert sum("orient48" in path for path in images) >= 48
    for kind in ("nan", "nifti2", ".img", ".mgz", ".BRIK", ".mnc", "oblique", "functional.nii", "zstat1", "atlas"):
        assert any(kind in path for path in images), kind
    assert len(images) > 85


@pytest.mark.parametrize("row", ROWS.values(), ids=ROWS.keys())
def test_files_on_the_cpu(images: dict[str, Nifti1Image], monkeypatch: pytest.MonkeyPatch, row: Row) -> None:
    monkeypatch.setenv("GPUROI_DEVICE", "cpu")
    assert {path: found for path, img in images.items() if (found := difference(row, path, img))} == {}


@pytest.mark.kernels
@pytest.mark.parametrize("row", ROWS.values(), ids=ROWS.keys())
def test_parts_on_the_stand_in(parts: dict[str, Nifti1Image], standin_cuda: None, row: Row) -> None:
    assert {path: found for path, img in parts.items() if (found := difference(row, img, img))} == {}


def difference(row: Row, given: Any, img: Nifti1Image) -> str:
    """Say what differs from nilearn; nothing if nothing does."""
    own = Nifti1Image(np.array(img.dataobj), img.affine)  # nilearn writes 0 over NaN in the images that it is given
    want = result(row, getattr(row.module, row.name), row.for_nilearn(own), img)
    got = result(row, getattr(ours, row.name), given, img)
    if isinstance(want, Exception) or isinstance(got, Exception):
        fits = isinstance(want, TypeError | ValueError) and isinstance(got, TypeError | ValueError)
        return "" if fits and isinstance(got, TypeError) == isinstance(want, TypeError) else f"{got!r}, not {want!r}"
    try:
        same(got, want, row.rtol)
    except AssertionError as error:
        return str(error)
    return ""


def result(row: Row, function: Callable[..., Any], given: Any, img: Nifti1Image) -> Any:
    try:
        return quietly(row.call, function, given, img)
    except Exception as error:  # whatever it is, it is compared
        return error


def same(got: Any, want: Any, rtol: float) -> None:
    if want is None:
        assert got is None
    elif isinstance(want, tuple):
        assert len(got) == len(want)
        for one, other in zip(got, want, strict=True):
            same(one, other, rtol)
    elif isinstance(want, pd.DataFrame):
        pd.testing.assert_frame_equal(got, want, check_exact=True, check_dtype=False)  # uint8 is int16 there
    elif hasattr(want, "dataobj"):
        scale = np.abs(np.nan_to_num(np.asanyarray(want.dataobj).astype(np.float64))).max(initial=0.0)
        check(got, want, rtol=rtol, atol=rtol / 5 * scale)
    else:
        got, want = np.asarray(got), np.asarray(want)
        assert got.dtype == want.dtype
        scale = np.abs(want).max(initial=0) if want.dtype.kind == "f" and rtol else 0.0
        np.testing.assert_allclose(got, want, rtol=rtol, atol=rtol / 5 * scale)
