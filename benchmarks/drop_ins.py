"""Drop-ins for functions of nilearn: the same lines for both, with the library they are taken from.

A function takes the input and the library, prepares what is not timed, and returns the call that is.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.inputs import FileSet, MapBatch
from benchmarks.inputs_images import as_image, as_new
from benchmarks.settings import CLUSTER_THRESHOLD, CUTOFF, FDR, FWHM_MM, MIN_VOXELS, PERCENTILE, Call, Later, Outputs
from gpuroi.backends import Backend

__all__ = [
    "apply_mask",
    "by_gpuroi",
    "by_nilearn",
    "cluster_level_inference",
    "clusters_table",
    "connected_label_regions",
    "connected_regions",
    "img_to_signals_labels",
    "labels_masker",
    "mean_img",
    "nifti_masker",
    "painted",
    "smooth_img",
    "threshold_img",
    "threshold_percentile",
    "threshold_stats_img",
]

Prepare = Callable[[Any, Any], Call]


def by_gpuroi(prepare: Prepare) -> Any:
    """With `gpuroi.nilearn`, on the device of the backend: drop-ins take it from the environment."""

    def prepare_ours(made: Any, backend: Backend) -> Call:
        import gpuroi.nilearn

        call = prepare(made, gpuroi.nilearn)

        def run() -> Outputs:
            with _device(backend.device), warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)  # a small map may hold no cluster of one sign
                return call()

        return run

    return prepare_ours


def by_nilearn(prepare: Prepare) -> Any:
    """With nilearn itself."""
    return lambda made: prepare(made, _nilearn())


def threshold_img(maps: MapBatch, library: Any) -> Call:
    image = as_image(maps.volumes)
    return lambda: {
        "values": _volumes(library.threshold_img(as_new(image), CUTOFF, cluster_threshold=MIN_VOXELS, two_sided=True))
    }


def threshold_percentile(maps: MapBatch, library: Any) -> Call:
    image = as_image(maps.volumes)
    return lambda: {"values": _volumes(library.threshold_img(as_new(image), f"{PERCENTILE}%", two_sided=True))}


def smooth_img(maps: MapBatch, library: Any) -> Call:
    image = as_image(maps.volumes)
    return lambda: {"values": _volumes(library.smooth_img(as_new(image), FWHM_MM))}


def mean_img(maps: MapBatch, library: Any) -> Call:
    image = as_image(maps.volumes)
    return lambda: {"values": _volumes(library.mean_img(as_new(image), copy_header=True))}


def connected_regions(extract_type: str) -> Prepare:
    """`extract_type`: "connected_components" or "local_regions"."""

    def prepare(maps: MapBatch, library: Any) -> Call:
        image = as_image(maps.volumes)

        def call() -> Outputs:
            found, index = library.connected_regions(as_new(image), maps.region_mm3, extract_type)
            return {
                "regions": len(index or []),
                "painted": Later(lambda: painted(found, maps.volumes.shape[1:])),
            }

        return call

    return prepare


def painted(found: Any, shape: tuple[int, ...]) -> NDArray[np.float64]:
    """Each voxel with the largest |value| of its region: says where regions lie, however they are numbered."""
    out = np.zeros(shape)
    for k in range(0 if found is None else found.shape[3]):
        values = np.abs(np.asarray(found.dataobj[..., k]))
        out[values > 0] = values.max()
    return out


def connected_label_regions(maps: MapBatch, library: Any) -> Call:
    assert maps.labels is not None
    image = as_image(maps.labels)
    return lambda: {"labels": np.asarray(library.connected_label_regions(as_new(image)).dataobj)}


def img_to_signals_labels(maps: MapBatch, library: Any) -> Call:
    assert maps.labels is not None
    image, atlas = as_image(maps.volumes), as_image(maps.labels)
    return lambda: {"means": library.img_to_signals_labels(as_new(image), as_new(atlas))[0]}


def labels_masker(maps: MapBatch, library: Any) -> Call:
    assert maps.labels is not None
    image, atlas = as_image(maps.volumes), as_image(maps.labels)

    def call() -> Outputs:
        masker = library.NiftiLabelsMasker(as_new(atlas), standardize=None, resampling_target=None, reports=False)
        return {"means": masker.fit_transform(as_new(image))}

    return call


def apply_mask(files: FileSet, library: Any) -> Call:
    paths, mask = [str(p) for p in files.paths], str(files.mask_path)
    return lambda: {"matrix": library.apply_mask(paths, mask)}


def nifti_masker(files: FileSet, library: Any) -> Call:
    paths, mask = [str(p) for p in files.paths], str(files.mask_path)

    def call() -> Outputs:
        masker = library.NiftiMasker(mask, standardize="zscore_sample", reports=False)
        return {"matrix": masker.fit_transform(paths)}

    return call


def clusters_table(maps: MapBatch, library: Any) -> Call:
    image = as_image(maps.volumes)

    def call() -> Outputs:
        table = library.get_clusters_table(as_new(image), CLUSTER_THRESHOLD, MIN_VOXELS, two_sided=True)
        return {"clusters": Later(lambda: _clusters(table))}

    return call


def cluster_level_inference(maps: MapBatch, library: Any) -> Call:
    image, mask = as_image(maps.volumes), as_image(maps.mask)

    def call() -> Outputs:
        found = library.cluster_level_inference(as_new(image), as_new(mask), threshold=CLUSTER_THRESHOLD, alpha=FDR)
        return {"shares": _volumes(found)}

    return call


def threshold_stats_img(maps: MapBatch, library: Any) -> Call:
    image, mask = as_image(maps.volumes), as_image(maps.mask)

    def call() -> Outputs:
        kept, threshold = library.threshold_stats_img(
            as_new(image), as_new(mask), alpha=FDR, height_control="fdr", cluster_threshold=MIN_VOXELS
        )
        return {"values": _volumes(kept), "threshold": threshold}

    return call


def _nilearn() -> Any:
    from nilearn import glm, image, maskers, masking, regions, reporting

    modules = (glm, image, maskers, masking, regions, reporting)
    return SimpleNamespace(**{name: getattr(module, name) for module in modules for name in module.__all__})


@contextmanager
def _device(name: str) -> Iterator[None]:
    before = os.environ.get("GPUROI_DEVICE")
    os.environ["GPUROI_DEVICE"] = name
    try:
        yield
    finally:
        if before is None:
            del os.environ["GPUROI_DEVICE"]
        else:
            os.environ["GPUROI_DEVICE"] = before


def _volumes(image: Any) -> NDArray[Any]:
    """The voxels as (n, X, Y, Z)."""
    data = np.asarray(image.dataobj)
    return data[None] if data.ndim == 3 else np.moveaxis(data, -1, 0)


def _clusters(table: Any) -> NDArray[np.float64]:
    """Place in mm, height and size in mm3 of the highest peak of each cluster, sorted; sub-peaks are left out."""
    size = table.columns[-1]
    highest = table[table[size] != ""]
    rows: NDArray[np.float64] = highest[["X", "Y", "Z", "Peak Stat", size]].to_numpy(dtype=np.float64)
    return rows[np.lexsort(rows.T)]
