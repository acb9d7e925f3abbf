"""A table of the clusters of a statistical map, and an image of them."""

from __future__ import annotations

import string
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gpuroi._card import Card
from gpuroi.errors import DataError, UsageError
from gpuroi.workflows.notebook import HasMap, ShownMap, draw_regions, silhouette
from gpuroi.workflows.output import can_draw, result_folder
from gpuroi.workflows.provenance import describe_inputs, provenance_of
from gpuroi.workflows.stopwatch import Stopwatch

if TYPE_CHECKING:
    import os

    import pandas as pd
    from numpy.typing import NDArray

    from gpuroi.images.atlas_labels import Atlas
    from gpuroi.images.read import Image

__all__ = ["ClustersResult", "clusters"]

_COLUMNS = {
    "Cluster ID": "Number of the cluster, as in the label image; with a letter: a sub-peak",
    "X": "Peak, mm to the right, in the space of the image",
    "Y": "Peak, mm to the front",
    "Z": "Peak, mm up",
    "Peak Stat": "Value at the peak, with its sign",
    "Cluster Size (mm3)": "Voxels times the volume of one",
    "Voxels": "Number of voxels",
    "Mass": "Sum of |value| over the cluster",
    "Sign": "1 or -1",
    "Peak Label": "Region of the atlas at the peak",
    "Labels (%)": "Share of the cluster's voxels in each region of the atlas",
}


@dataclass(frozen=True)
class ClustersResult(HasMap):
    """Clusters of a map.

    Attributes
    ----------
    table : DataFrame
        nilearn's columns first: `Cluster ID` (text: "1", and "1a", "1b" for sub-peaks), `X`, `Y`, `Z` (mm), `Peak
        Stat`, `Cluster Size (mm3)`; then `Voxels`, `Mass`, `Sign`, and with an atlas `Peak Label` and `Labels (%)`.
    labels : int32 array, shape (X, Y, Z)
        0 outside, else the number of the cluster.
    settings : dict
        The arguments; `cutoff` is the value that a percentile came to, `rule` says it in words.
    timings : dict of str to float
    counts : dict
    inputs : list of dict
    device : str
    """

    table: pd.DataFrame
    labels: NDArray[np.int32] = field(repr=False)
    settings: dict[str, Any]
    timings: dict[str, float]
    counts: dict[str, Any]
    inputs: list[dict[str, Any]] = field(repr=False)
    device: str
    like: Image = field(repr=False)

    @property
    def image(self) -> Any:
        """The labels as a nibabel image, int32, in the space of the map."""
        from gpuroi.images.make_image import image_like

        return image_like(self.labels, self.like)

    def save(self, folder: str | os.PathLike[str], *, overwrite: bool = False, figures: bool = True) -> Path:
        """Write everything into a folder, whole or not at all.

        Parameters
        ----------
        folder : path
            Gets `clusters.tsv`, `clusters_dseg.nii.gz` with its look-up table `clusters_dseg.tsv`, sidecars,
            `report.html`, `figures/`, `provenance.json` and `dataset_description.json`.
        overwrite : bool, default False
            Replace earlier results in this folder.
        figures : bool, default True
            Draw the clusters on the map. Without matplotlib they are left out, which is said in the log and in
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
        import pandas as pd

        from gpuroi.images.write import save_image, write_json, write_tsv
        from gpuroi.report.clusters_page import clusters_page, clusters_pictures

        shown: dict[str, Any] = {"page": clusters_page, "pictures": clusters_pictures, "figures": figures}
        n = self.counts["clusters"]
        names = pd.DataFrame({"index": np.arange(1, n + 1), "name": [f"cluster-{i}" for i in range(1, n + 1)]})
        columns = {name: {"Description": text} for name, text in _COLUMNS.items() if name in self.table}
        with result_folder(self, folder, name="Clusters of a statistical map", overwrite=overwrite, **shown) as staged:
            write_tsv(staged / "clusters.tsv", self.table)
            write_json(staged / "clusters.json", {**columns, "Settings": self.settings})
            sidecar = {"Description": "clusters, 0 outside; numbers as in clusters.tsv", "Settings": self.settings}
            save_image(staged / "clusters_dseg.nii.gz", self.labels, self.like.affine, like=self.like, sidecar=sidecar)
            write_tsv(staged / "clusters_dseg.tsv", names)
        return Path(folder)

    def report(self) -> str:
        """Return the report: one HTML page that needs no network and no other file."""
        from gpuroi.report.clusters_page import clusters_page

        return clusters_page(self, [] if can_draw() else None)

    def provenance(self, notes: list[str] | None = None) -> dict[str, Any]:
        """Return the record of this run, as `provenance.json` holds it."""
        return provenance_of(self, "clusters", notes)

    def _card(self) -> Card:
        return Card(
            f"Clusters of {Path(self.like.name).name or 'a map'}",
            [
                ("device", self.device),
                ("threshold", self.settings["rule"]),
                ("clusters", f"{self.counts['clusters']}, {self.counts['voxels_in_clusters']} voxels"),
            ],
            self.table,
            "peaks",
            lambda path: draw_regions(self.labels, silhouette(self.like.read_one()), self.like.affine, path),
            "Cuts through the map with the clusters in colour, numbered.",
        )

    def _shown_map(self) -> ShownMap:
        values = np.where(self.labels > 0, self.like.read_one(), 0)
        return ShownMap(values, self.like.affine, self.settings["rule"], abs(float(self.settings["cutoff"])))


def clusters(
    img: Any,
    *,
    threshold: float | str,
    two_sided: bool = True,
    min_size_mm3: float = 0.0,
    connectivity: int = 6,
    mask: Any = None,
    atlas: Any = None,
    atlas_names: Any = None,
    sub_peaks: int = 3,
    min_distance_mm: float = 8.0,
    device: str = "auto",
) -> ClustersResult:
    """List the clusters of a statistical map with their peaks and, with an atlas, where they lie.

    Parameters
    ----------
    img : path or image
        One volume.
    threshold : float or str
        A value, or a percentile such as "97%", as `gpuroi.images.threshold` takes it.
    two_sided : bool, default True
        True keeps ``|x| >= threshold``; positive and negative voxels never make one cluster. False keeps
        ``x >= threshold``, or ``x <= threshold`` if that is negative.
    min_size_mm3 : float, default 0.0
        Clusters of at least this many mm3 are listed.
    connectivity : {6, 18, 26}, default 6
        Which neighbours make one cluster: faces; and edges; and corners.
    mask : path or image, optional
        Non-zero inside, on the grid of the map. Applied first.
    atlas : path or image, optional
        Labels of regions, on the grid of the map.
    atlas_names : path, DataFrame or mapping, optional
        Their names: a BIDS `_dseg.tsv`, an FSL .xml, a FreeSurfer table. None: the table beside the atlas.
    sub_peaks : int, default 3
        At most so many further peaks for each cluster.
    min_distance_mm : float, default 8.0
        Between any two peaks of one cluster.
    device : {"auto", "cpu", "cuda", "cuda:N"}

    Returns
    -------
    ClustersResult
        Positive clusters first, each sign from the highest peak down. Without clusters the table is empty.

    Raises
    ------
    UsageError
        An argument outside its range; names without an atlas.
    DataError
        A file that cannot be used, several volumes, a map without a finite value, an atlas without a region.
    GridError
        A mask or an atlas on another grid.
    DeviceError
        If the device asked for cannot be used.

    Examples
    --------
    >>> import nibabel
    >>> values = np.zeros((6, 6, 6), np.float32)
    >>> values[1:3, 1:3, 1:3], values[4, 4, 3:5] = 4.0, -5.0
    >>> result = clusters(nibabel.Nifti1Image(values, np.eye(4)), threshold=3.0, sub_peaks=0, device="cpu")
    >>> result.table[["Cluster ID", "Peak Stat", "Voxels", "Mass"]].values.tolist()
    [['1', 4.0, 8, 32.0], ['2', -5.0, 2, 10.0]]
    """
    from gpuroi.images.describe_regions import region_table
    from gpuroi.images.find_regions import regions
    from gpuroi.images.read import open_image

    if sub_peaks < 0:
        raise UsageError(f"sub_peaks is {sub_peaks}", "ask for none (0) or more")
    if not 0 <= min_distance_mm < np.inf:
        raise UsageError(f"min_distance_mm is {min_distance_mm}", "give mm, 0 or more")
    watch = Stopwatch()
    with watch("open"):
        image = open_image(img)
        known = _read_atlas(atlas, atlas_names, image)
        inputs = describe_inputs([img, mask, atlas, atlas_names])
    with watch("clusters"):
        found = regions(
            image,
            threshold=threshold,
            two_sided=two_sided,
            min_size_mm3=min_size_mm3,
            connectivity=connectivity,
            mask=mask,
            device=device,
        )
    with watch("table"):
        how: dict[str, Any] = {"n_sub_peaks": sub_peaks, "min_distance_mm": min_distance_mm, "atlas": known}
        rows = region_table(found.labels, image.read_one(), image.affine, mass=True, sign=True, **how)
        labels, rows = _by_peak(found.labels, rows, found.n_positive)
    settings = {
        "threshold": threshold,
        "cutoff": found.cutoff,
        "rule": found.rule,
        "two_sided": bool(two_sided),
        "min_size_mm3": float(min_size_mm3),
        "connectivity": int(connectivity),
        "mask": mask is not None,
        "atlas": None if known is None else known.name,
        "sub_peaks": int(sub_peaks),
        "min_distance_mm": float(min_distance_mm),
    }
    counts = {
        "clusters": found.n_positive + found.n_negative,
        "clusters_positive": found.n_positive,
        "voxels_inside": found.voxels_inside,
        "voxels_in_clusters": int(np.count_nonzero(labels)),
    }
    return ClustersResult(_renamed(rows), labels, settings, watch.seconds, counts, inputs, found.device, image)


def _read_atlas(atlas: Any, names: Any, image: Image) -> Atlas | None:
    """Open the atlas before any work is done, and refuse what would make every label n/a."""
    from gpuroi.images.atlas_labels import read_atlas
    from gpuroi.images.grid import check_same_grid

    if atlas is None:
        if names is not None:
            raise UsageError("names of an atlas are given without the atlas", "give the label image too: --atlas")
        return None
    known = read_atlas(atlas, names)
    check_same_grid([known], reference=image)
    if not known.labels.any():
        raise DataError(f"{known.name}: every voxel is 0: the atlas has no region", "give a label image")
    return known


def _by_peak(labels: NDArray[np.int32], rows: pd.DataFrame, n_positive: int) -> tuple[NDArray[np.int32], pd.DataFrame]:
    """Number the clusters anew: positive ones first, each sign from the highest peak down."""
    main = rows[rows["peak"] == 1] if "peak" in rows else rows
    ids = main["id"].to_numpy()
    order = np.lexsort((ids, -np.abs(main["peak_stat"].to_numpy()), ids > n_positive))
    number = np.zeros(len(ids) + 1, np.int32)
    number[ids[order]] = np.arange(1, len(ids) + 1)
    rows = rows.assign(id=number[rows["id"].to_numpy()])
    return number[labels], rows.sort_values("id", kind="stable", ignore_index=True)


def _renamed(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the table under the names that users of nilearn know."""
    rank = rows["peak"].tolist() if "peak" in rows else [1] * len(rows)
    ids = [f"{number}{_letters(k - 1)}" for number, k in zip(rows["id"].tolist(), rank, strict=True)]
    table = rows.assign(id=ids).astype({"id": object})
    wanted = {
        "id": "Cluster ID",
        "peak_x": "X",
        "peak_y": "Y",
        "peak_z": "Z",
        "peak_stat": "Peak Stat",
        "mm3": "Cluster Size (mm3)",
        "voxels": "Voxels",
        "mass": "Mass",
        "sign": "Sign",
        "peak_label": "Peak Label",
        "labels": "Labels (%)",
    }
    return table[[name for name in wanted if name in table]].rename(columns=wanted)


def _letters(k: int) -> str:
    """Return "" for 0, then a to z, aa, ab, ...

    Examples
    --------
    >>> [_letters(k) for k in (0, 1, 26, 27)]
    ['', 'a', 'z', 'aa']
    """
    text = ""
    while k:
        k, rest = divmod(k - 1, 26)
        text = string.ascii_lowercase[rest] + text
    return text
