"""Regions of a statistical map: threshold, connect, drop the small ones, and describe the rest."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from gpuroi._card import Card
from gpuroi.backends.memory import parse_bytes
from gpuroi.errors import UsageError
from gpuroi.workflows.notebook import HasMap, ShownMap, draw_regions, silhouette
from gpuroi.workflows.output import atlas_image, can_draw, described_columns, result_folder
from gpuroi.workflows.provenance import describe_inputs, provenance_of
from gpuroi.workflows.stopwatch import Stopwatch

if TYPE_CHECKING:
    import os

    import pandas as pd
    from numpy.typing import NDArray

    from gpuroi.images.read import Image

__all__ = ["RegionsResult", "regions"]

_BYTES_PER_VOXEL = 40  # the map, the population of a percentile, two label images and what the kernels need


@dataclass(frozen=True)
class RegionsResult(HasMap):
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
        from gpuroi.images.write import save_image, write_tsv
        from gpuroi.report.page import regions_page, regions_pictures

        shown: dict[str, Any] = {"page": regions_page, "pictures": regions_pictures, "figures": figures}
        affine, labels = self.like.affine, self.labels
        texts = {
            "atlas": "regions, 0 outside; ids and signs as in atlas.tsv",
            "thresholded": "the map where a region lies, 0 elsewhere",
        }
        with result_folder(self, folder, name="Regions of a statistical map", overwrite=overwrite, **shown) as staged:
            for name, values in (("atlas", labels), ("thresholded", self.thresholded)):
                columns = described_columns(self.table) if name == "atlas" else {}
                sidecar = {**columns, "Description": texts[name], "Settings": self.settings}
                save_image(staged / f"{name}.nii.gz", values, affine, like=self.like, sidecar=sidecar)
            write_tsv(staged / "atlas.tsv", self.table)
        return Path(folder)

    def report(self) -> str:
        """Return the report: one HTML page that needs no network and no other file."""
        from gpuroi.report.page import regions_page

        return regions_page(self, [] if can_draw() else None)

    def provenance(self, notes: list[str] | None = None) -> dict[str, Any]:
        """Return the record of this run, as `provenance.json` holds it."""
        return provenance_of(self, "regions", notes)

    def _card(self) -> Card:
        return Card(
            f"Regions of {Path(self.like.name).name or 'a map'}",
            [
                ("device", self.device),
                ("threshold", self.settings["rule"]),
                ("regions", f"{len(self.table)}, {np.count_nonzero(self.labels)} voxels"),
            ],
            self.table,
            "regions",
            lambda path: draw_regions(self.labels, silhouette(self.like.read_one()), self.like.affine, path),
            "Cuts through the map with the regions in colour, numbered.",
        )

    def _shown_map(self) -> ShownMap:
        cut = abs(float(self.settings["cutoff"]))
        return ShownMap(self.thresholded, self.like.affine, self.settings["rule"], cut)


def regions(
    img: Any,
    *,
    threshold: float | str = "97%",
    two_sided: bool = True,
    min_size_mm3: float = 0.0,
    connectivity: int = 6,
    mask: Any = None,
    seeds: Literal["local-maxima"] | None = None,
    seed_distance_mm: float = 20.0,
    seed_fwhm_mm: float = 6.0,
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
        too) that hold a finite value. Two-sided: of `abs(x)`; else of the values that are not negative.
    two_sided : bool, default True
        True keeps ``abs(x) >= threshold``; positive and negative voxels never make one region. False keeps
        ``x >= threshold``, or ``x <= threshold`` if that is negative.
    min_size_mm3 : float, default 0.0
        Regions of at least this many mm3 are kept.
    connectivity : {6, 18, 26}, default 6
        Which neighbours make one region: faces; and edges; and corners.
    mask : path or image, optional
        Non-zero inside, on the grid of the map. Applied first.
    seeds : {"local-maxima"}, optional
        None: a region is a connected component. "local-maxima": components with several peaks are split by a random
        walker that starts at each (on the CPU, on any device).
    seed_distance_mm : float, default 20.0
        Peaks are the largest of a box that reaches so far along each axis.
    seed_fwhm_mm : float, default 6.0
        Peaks are sought in the map smoothed by so much; 0 for not at all.
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
    from gpuroi.images.find_regions import regions as find_regions
    from gpuroi.images.read import open_image

    watch = Stopwatch()
    with watch("open"):
        image = open_image(img)
        _check_memory(image, memory_limit)
        inputs = describe_inputs([img, mask])
    seeded: dict[str, Any] = {
        "seeds": seeds,
        "seed_distance_mm": float(seed_distance_mm),
        "seed_fwhm_mm": float(seed_fwhm_mm),
    }
    with watch("regions"):
        found = find_regions(
            image,
            threshold=threshold,
            two_sided=two_sided,
            min_size_mm3=min_size_mm3,
            connectivity=connectivity,
            mask=mask,
            **seeded,
            device=device,
        )
    values, labels = image.read_one(), found.labels
    table = _table(labels, values, image.affine, found.n_positive)
    settings = {
        "threshold": threshold,
        "cutoff": found.cutoff,
        "rule": found.rule,
        "two_sided": bool(two_sided),
        "min_size_mm3": float(min_size_mm3),
        "connectivity": int(connectivity),
        "mask": mask is not None,
        **(seeded if seeds is not None else {"seeds": None}),
    }
    counts = {
        "voxels": int(values.size),
        "voxels_inside": found.voxels_inside,
        "voxels_not_finite": int((~np.isfinite(values)).sum()),
        "voxels_thresholded": int((found.kept != 0).sum()),
        "voxels_in_regions": int((labels != 0).sum()),
        "regions": len(table),
        "regions_positive": found.n_positive,
    }
    thresholded = np.where(labels != 0, values, np.float32(0))
    return RegionsResult(
        atlas_image(labels, image), table, thresholded, settings, watch.seconds, counts, inputs, found.device, image
    )


def _check_memory(image: Image, memory_limit: str | int | None) -> None:
    needed = _BYTES_PER_VOXEL * math.prod(image.shape)
    if memory_limit is not None and parse_bytes(memory_limit) < needed:
        raise UsageError(
            f"the memory limit is {memory_limit}, but {image.name} needs {needed / 1e6:.0f} MB",
            f"give {-(-needed // 10**6)}MB or more",
        )


def _table(
    labels: NDArray[np.int32], values: NDArray[np.float32], affine: NDArray[np.float64], n_positive: int
) -> pd.DataFrame:
    from gpuroi.images.describe_regions import region_table

    table = region_table(labels, values, affine)
    table.insert(1, "sign", np.where(table["id"] <= n_positive, 1, -1))
    return table
