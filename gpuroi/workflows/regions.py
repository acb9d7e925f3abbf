"""Regions of a statistical map: threshold, connect, drop the small ones, and describe the rest."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gpuroi.backends import get_backend
from gpuroi.backends.memory import parse_bytes
from gpuroi.errors import DataError, UsageError
from gpuroi.workflows.output import atlas_image, can_draw
from gpuroi.workflows.provenance import dataset_description, describe_inputs, provenance
from gpuroi.workflows.stopwatch import Stopwatch

if TYPE_CHECKING:
    import os

    import pandas as pd
    from numpy.typing import NDArray

    from gpuroi.backends.base import Backend
    from gpuroi.images.read import Image

__all__ = ["RegionsResult", "regions"]

_BYTES_PER_VOXEL = 40  # the map, the population of a percentile, two label images and what the kernels need


@dataclass(frozen=True)
class RegionsResult:
    """Connected regions of a map.

    Attributes
    ----------
    atlas : nibabel image, int32
        0 outside; the positive regions from 1, then the negative ones.
    table : DataFrame
        One row per region: `id`, `sign` (1 or -1), `voxels`, `mm3`, `peak_x`, `peak_y`, `peak_z` (mm), `peak_stat`,
        `center_x`, `center_y`, `center_z` (mm).
    thresholded : float32 array, shape (X, Y, Z)
        The map where a region lies, 0 elsewhere.
    settings : dict
        The arguments; `cutoff` is the value that a percentile came to.
    timings : dict of str to float
        Seconds per stage.
    counts : dict
    inputs : list of dict
    device : str
    """

    atlas: Any
    table: pd.DataFrame
    thresholded: NDArray[np.float32]
    settings: dict[str, Any]
    timings: dict[str, float]
    counts: dict[str, Any] = field(repr=False)
    inputs: list[dict[str, Any]] = field(repr=False)
    device: str
    like: Image = field(repr=False)

    @property
    def labels(self) -> NDArray[np.int32]:
        """Labels of the atlas, int32, shape (X, Y, Z)."""
        return np.asarray(self.atlas.dataobj, dtype=np.int32)

    def save(self, folder: str | os.PathLike[str], *, overwrite: bool = False, figures: bool = True) -> Path:
        """Write everything into a folder, whole or not at all.

        Parameters
        ----------
        folder : path
            Gets `atlas.nii.gz`, `atlas.tsv`, `thresholded.nii.gz`, sidecars, `report.html`, `figures/`,
            `provenance.json` and `dataset_description.json`.
        overwrite : bool, default False
            Replace earlier results in this folder.
        figures : bool, default True
            Draw the regions on the map. Without matplotlib they are left out, which is said in the log and in
            `provenance.json`.

        Returns
        -------
        Path
            The folder.

        Raises
        ------
        OutputError
            If the folder holds results already, holds something else, or cannot be written.
        """
        from gpuroi.images.write import save_image, staged_folder, write_json, write_tsv
        from gpuroi.report.page import regions_page, regions_pictures

        reason = can_draw() if figures else ""
        affine, labels = self.like.affine, self.labels
        texts = {
            "atlas": "regions, 0 outside; ids and signs as in atlas.tsv",
            "thresholded": "the map where a region lies, 0 elsewhere",
        }
        with staged_folder(folder, overwrite=overwrite) as staged:
            for name, values in (("atlas", labels), ("thresholded", self.thresholded)):
                sidecar = {"Description": texts[name], "Settings": self.settings}
                save_image(staged / f"{name}.nii.gz", values, affine, like=self.like, sidecar=sidecar)
            write_tsv(staged / "atlas.tsv", self.table)
            pictures = []
            if figures and not reason:
                (staged / "figures").mkdir()
                pictures = regions_pictures(self, staged / "figures")
            (staged / "report.html").write_text(regions_page(self, pictures), encoding="utf-8")
            write_json(staged / "dataset_description.json", dataset_description("Regions of a statistical map"))
            write_json(staged / "provenance.json", self.provenance([reason] if reason else []))
        return Path(folder)

    def report(self) -> str:
        """Return the report: one HTML page that needs no network and no other file."""
        from gpuroi.report.page import regions_page

        return regions_page(self, [] if can_draw() else None)

    def provenance(self, notes: list[str] | None = None) -> dict[str, Any]:
        """Return the record of this run, as `provenance.json` holds it."""
        return provenance(
            "regions",
            settings=self.settings,
            inputs=self.inputs,
            counts=self.counts,
            timings=self.timings,
            device=self.device,
            notes=notes or [],
        )


def regions(
    img: Any,
    *,
    threshold: float | str = "97%",
    two_sided: bool = True,
    min_size_mm3: float = 0.0,
    connectivity: int = 6,
    mask: Any = None,
    device: str = "auto",
    memory_limit: str | int | None = None,
) -> RegionsResult:
    """Find the connected regions of a statistical map.

    Parameters
    ----------
    img : path or image
        One volume.
    threshold : float or str, default "97%"
        A value, or a percentile of the voxels inside the mask (without a mask: of all, the zeros of the background
        too), NaN left out. Two-sided: of `abs(x)`; else of the values that are not negative.
    two_sided : bool, default True
        True keeps ``abs(x) >= threshold``; positive and negative voxels never make one region. False keeps
        ``x >= threshold``, or ``x <= threshold`` if that is negative.
    min_size_mm3 : float, default 0.0
        Regions of at least this many mm3 are kept.
    connectivity : {6, 18, 26}, default 6
        Which neighbours make one region: faces; and edges; and corners.
    mask : path or image, optional
        Non-zero inside, on the grid of the map. Applied first.
    device : {"auto", "cpu", "cuda", "cuda:N"}
    memory_limit : int or str, optional
        Bytes, or text such as "2GB", beside what the imports take: a map that needs more is refused.

    Returns
    -------
    RegionsResult
        Also when nothing reaches the threshold: then with an empty table.

    Raises
    ------
    UsageError
        An argument outside its range, or a memory limit below what one map needs.
    DataError
        A file that cannot be used, several volumes, or a map that is all NaN.
    DeviceError
        If the device asked for cannot be used.

    Notes
    -----
    Zeros, NaN and infinite values lie in no region. nilearn's `connected_regions` keeps regions strictly larger than
    the limit and smooths first by default; here sizes of exactly the limit stay, and nothing is smoothed.

    Examples
    --------
    >>> import nibabel, numpy as np
    >>> values = np.zeros((6, 6, 6), np.float32)
    >>> values[1:3, 1:3, 1:3], values[3, 3, 3:5] = 4.0, -5.0
    >>> result = regions(nibabel.Nifti1Image(values, np.eye(4)), threshold=3.0, device="cpu")
    >>> result.table[["id", "sign", "voxels", "peak_stat"]].values.tolist()
    [[1.0, 1.0, 8.0, 4.0], [2.0, -1.0, 2.0, -5.0]]
    """
    from gpuroi.images.masks import read_mask
    from gpuroi.images.read import open_image

    _check_settings(min_size_mm3, connectivity)
    threshold = _value_or_percentile(threshold)
    backend = get_backend(device)
    watch = Stopwatch()
    with watch("read"):
        image = open_image(img)
        values = _read_map(image, memory_limit)
        inside = None if mask is None else read_mask(mask, image)
        inputs = describe_inputs([img, mask])
    with watch("regions"), backend.activate():
        kept, cutoff = _threshold(values, threshold, two_sided, inside, backend)
        labels, n_positive = _label_signs(kept, image.affine, min_size_mm3, connectivity, backend)
    table = _table(labels, values, image.affine, n_positive)
    percentile = f" ({threshold})" if isinstance(threshold, str) else ""
    compared = "|x| >=" if two_sided else ("x >=" if cutoff >= 0 else "x <=")
    settings = {
        "threshold": threshold,
        "cutoff": cutoff,
        "rule": f"{compared} {cutoff:.6g}{percentile}",
        "two_sided": bool(two_sided),
        "min_size_mm3": float(min_size_mm3),
        "connectivity": int(connectivity),
        "mask": mask is not None,
    }
    counts = {
        "voxels": int(values.size),
        "voxels_inside": int(values.size if inside is None else inside.sum()),
        "voxels_not_finite": int((~np.isfinite(values)).sum()),
        "voxels_thresholded": int((kept != 0).sum()),
        "voxels_in_regions": int((labels != 0).sum()),
        "regions": len(table),
        "regions_positive": n_positive,
    }
    thresholded = np.where(labels != 0, values, np.float32(0))
    return RegionsResult(
        atlas_image(labels, image), table, thresholded, settings, watch.seconds, counts, inputs, backend.device, image
    )


def _check_settings(min_size_mm3: float, connectivity: int) -> None:
    if not (math.isfinite(min_size_mm3) and min_size_mm3 >= 0):
        raise UsageError(f"min_size_mm3 is {min_size_mm3}", "give mm3, 0 to keep every region")
    if connectivity not in (6, 18, 26):
        raise UsageError(f"connectivity is {connectivity!r}", "use 6 (faces), 18 (and edges) or 26 (and corners)")


def _read_map(image: Image, memory_limit: str | int | None) -> NDArray[np.float32]:
    needed = _BYTES_PER_VOXEL * math.prod(image.shape)
    if memory_limit is not None and parse_bytes(memory_limit) < needed:
        raise UsageError(
            f"the memory limit is {memory_limit}, but {image.name} needs {needed / 1e6:.0f} MB",
            f"give {-(-needed // 10**6)}MB or more",
        )
    values = image.read_one()
    if not np.isfinite(values).any():
        raise DataError(f"{image.name}: all values are NaN or infinite", "check how the map was made")
    return values


def _threshold(
    values: NDArray[np.float32],
    cutoff: float | str,
    two_sided: bool,
    inside: NDArray[np.bool_] | None,
    backend: Backend,
) -> tuple[NDArray[np.float32], float]:
    """Return the values that pass, 0 elsewhere, and the cutoff as a number."""
    from gpuroi.ops import percentile_cutoff, threshold

    finite = np.where(np.isfinite(values), values, np.float32(np.nan))  # NaN is in no population and never kept
    data = backend.asarray(finite)
    where = None if inside is None else backend.asarray(inside)
    if isinstance(cutoff, str):
        number = float(percentile_cutoff(data, cutoff, two_sided=two_sided, mask=where))
        if math.isnan(number):
            raise DataError(
                f"no voxel to take the percentile {cutoff} of: nothing inside the mask has a value",
                "check that the mask covers the map",
            )
    else:
        number = float(cutoff)
    kept = threshold(data, number, two_sided=two_sided, mask=where)
    return backend.to_numpy(kept), number


def _value_or_percentile(threshold: float | str) -> float | str:
    """Return a number as a number, be it written as text; only what ends in % is a percentile."""
    if isinstance(threshold, str) and not threshold.strip().endswith("%"):
        try:
            return float(threshold)
        except ValueError:
            raise UsageError(
                f'threshold is "{threshold}"', 'give a value such as 3.1, or a percentile: "97%"'
            ) from None
    return threshold


def _label_signs(
    kept: NDArray[np.float32], affine: NDArray[np.float64], min_size_mm3: float, connectivity: int, backend: Backend
) -> tuple[NDArray[np.int32], int]:
    """Label what is positive, then what is negative; return the labels and how many are positive."""
    from gpuroi.images.regions import drop_small_regions
    from gpuroi.ops import label

    both = []
    for sign_mask in (kept > 0, kept < 0):
        found, n = label(backend.asarray(sign_mask), connectivity)
        both.append(drop_small_regions(backend.to_numpy(found), n, min_size_mm3=min_size_mm3, affine=affine))
    (labels, n_positive), (negative, _) = both
    return np.where(negative != 0, negative + np.int32(n_positive), labels).astype(np.int32), n_positive


def _table(
    labels: NDArray[np.int32], values: NDArray[np.float32], affine: NDArray[np.float64], n_positive: int
) -> pd.DataFrame:
    from gpuroi.images.regions import region_table

    table = region_table(labels, values, affine)
    table.insert(1, "sign", np.where(table["id"] <= n_positive, 1, -1))
    return table
