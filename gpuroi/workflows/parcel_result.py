"""What `gpuroi.threshold_parcels` returns."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gpuroi._card import Card
from gpuroi.errors import UsageError
from gpuroi.workflows.notebook import HasMap, ShownMap, draw_regions
from gpuroi.workflows.output import can_draw, result_folder
from gpuroi.workflows.provenance import provenance_of

if TYPE_CHECKING:
    import os

    import pandas as pd
    from numpy.typing import NDArray

    from gpuroi.domains import ParcelGraph
    from gpuroi.images.read import Image
    from gpuroi.parcels.hierarchy import Level

__all__ = ["ParcelThresholdResult"]

_COLUMNS = {
    "parcels": {
        "id": "Number in the label image",
        "name": "Name of the parcel",
        "value": "Value that was thresholded",
        "cluster": "Number of its cluster, as in clusters.tsv; 0: does not pass",
        "cluster_weight": "Weights of the parcels in its cluster, added up",
        "kept": "Whether its cluster is large enough",
        "sign": "1 or -1: passes on this side; 0: does not pass",
        "isolated": "Passes, but no neighbour does on its side",
        "weight": "What it counts in the size of a cluster",
        "voxels": "Number of voxels",
        "pieces": "Number of connected pieces",
        "x": "Mean of its voxels, mm to the right, in the space of the image",
        "y": "The same, mm to the front",
        "z": "The same, mm up",
    },
    "clusters": {
        "cluster": "Number of the cluster, as in clusters_dseg.nii.gz where it is kept",
        "sign": "1 or -1",
        "parcels": "Number of parcels",
        "weight": "Their weights, added up",
        "kept": "Whether it is large enough",
        "peak": "Parcel of the largest |value|",
        "peak_value": "Its value",
        "ids": "All its parcels",
    },
}


@dataclass(frozen=True)
class ParcelThresholdResult(HasMap):
    """Parcels that stand out together with their neighbours.

    Attributes
    ----------
    kept : list of int
        Ids, ascending.
    table : DataFrame
        One row a parcel, ids ascending: `id`, `name` (if names were given), `value`, `cluster` (0: does not pass;
        positive clusters first), `cluster_weight`, `kept`, `sign` (1, -1, 0), `isolated` (passes, but no neighbour
        does on its side), `weight`, `voxels`, `pieces` and, with an affine, the centre `x`, `y`, `z` in mm.
    graph : ParcelGraph
        Neighbours and weights as they were used.
    levels : list of Level
        With a hierarchy: the results of each level, from fine to coarse; `kept` and `table` are those of the first.
    settings : dict
        The arguments; `cutoff` is the value that a percentile came to.
    timings : dict of str to float
        Seconds per stage.
    counts : dict
        Among others the ids of `isolated` parcels, of which `isolated_kept`, and of those `in_several_pieces`.
    inputs : list of dict
    device : str
    """

    kept: list[int]
    table: pd.DataFrame
    graph: ParcelGraph
    levels: list[Level]
    settings: dict[str, Any]
    timings: dict[str, float]
    counts: dict[str, Any] = field(repr=False)
    inputs: list[dict[str, Any]] = field(repr=False)
    device: str
    labels: NDArray[Any] = field(repr=False)
    affine: NDArray[np.float64] | None = field(repr=False)
    like: Image | None = field(repr=False)
    source: Any = field(repr=False)

    @cached_property
    def image(self) -> Any:
        """The values of the kept parcels in their voxels, 0 elsewhere.

        A nibabel image if the labels are an image, an array if they are one; float32, or float64 where that would round
        a value.
        """
        painted = self.painted
        if self.like is None:
            return painted
        from gpuroi.images.make_image import image_like

        return image_like(painted, self.like)

    @cached_property
    def painted(self) -> NDArray[Any]:
        """`image` as an array, shape (X, Y, Z)."""
        from gpuroi.parcels.values import paint

        values = self.table["value"].to_numpy(np.float64)
        return paint(np.where(self.table["kept"], values, 0.0), self.graph.ids, self.labels)

    @cached_property
    def map(self) -> NDArray[Any]:
        """The map as it was given, or its values painted, shape (X, Y, Z); 0 outside the parcels."""
        from gpuroi.parcels.values import paint

        if self.settings["summary"] is not None:
            from gpuroi.domains.domain import on_host
            from gpuroi.images.read import open_image

            is_array = hasattr(self.source, "dtype") and not hasattr(self.source, "affine")
            return on_host(self.source) if is_array else open_image(self.source).read_one()
        values = np.nan_to_num(self.table["value"].to_numpy(np.float64), nan=0.0)
        return paint(values, self.graph.ids, self.labels)

    def save(self, folder: str | os.PathLike[str], *, overwrite: bool = False, figures: bool = True) -> Path:
        """Write everything into a folder, whole or not at all.

        Parameters
        ----------
        folder : path
            Gets `parcels.tsv`, `clusters.tsv`, `kept.nii.gz`, `clusters_dseg.nii.gz`, `graph.tsv`, with a
            hierarchy `levels/`, sidecars, `report.html`, `figures/`, `provenance.json` and `dataset_description.json`.
        overwrite : bool, default False
            Replace earlier results in this folder.
        figures : bool, default True
            Draw the map voxel by voxel beside parcel by parcel, and the graph. Without matplotlib they are left out,
            which is said in the log and in `provenance.json`.

        Returns
        -------
        Path
            The folder.

        Raises
        ------
        UsageError
            If the labels were an array and no affine was given.
        OutputError
            If the folder holds results already, holds something else, or cannot be written.
        """
        from gpuroi.images.write import save_image, write_json, write_tsv
        from gpuroi.parcels.graph_files import save_graph
        from gpuroi.report.parcel_page import parcels_page, parcels_pictures

        affine = self._needed_affine()
        shown: dict[str, Any] = {"page": parcels_page, "pictures": parcels_pictures, "figures": figures}
        cluster_of = np.append(0, self.table["cluster"].where(self.table["kept"], 0)).astype(np.int32)
        clusters = cluster_of[np.searchsorted(np.append(0, self.graph.ids), self.labels)]
        images = {
            "kept": (self.painted, "values of the kept parcels, 0 elsewhere"),
            "clusters_dseg": (clusters, "clusters that are kept, as numbered in clusters.tsv, 0 elsewhere"),
        }
        with result_folder(self, folder, name="Thresholded parcels", overwrite=overwrite, **shown) as staged:
            for name, (values, text) in images.items():
                sidecar = {"Description": text, "Settings": self.settings}
                save_image(staged / f"{name}.nii.gz", values, affine, like=self.like, sidecar=sidecar)
            for name, table in (("parcels", self.table), ("clusters", self.clusters)):
                columns = {key: {"Description": text} for key, text in _COLUMNS[name].items() if key in table}
                write_tsv(staged / f"{name}.tsv", table)
                write_json(staged / f"{name}.json", {**columns, "Settings": self.settings})
            save_graph(staged / "graph.tsv", self.graph)
            for level in self.levels:
                write_tsv(staged / "levels" / f"{_plain(level.name)}.tsv", level.table)
        return Path(folder)

    def report(self) -> str:
        """Return the report: one HTML page that needs no network and no other file."""
        from gpuroi.report.parcel_page import parcels_page

        return parcels_page(self, [] if can_draw() or self.affine is None else None)

    @cached_property
    def clusters(self) -> pd.DataFrame:
        """One row a cluster: `cluster`, `sign`, `parcels`, `weight`, `kept`, `peak` (id), `peak_value`, `ids`."""
        import pandas as pd

        rows = []
        for number, part in self.table[self.table["cluster"] > 0].groupby("cluster"):
            peak = part.iloc[int(part["value"].abs().to_numpy().argmax())]
            rows.append(
                {
                    "cluster": int(str(number)),
                    "sign": int(part["sign"].iloc[0]),
                    "parcels": len(part),
                    "weight": float(part["cluster_weight"].iloc[0]),
                    "kept": bool(part["kept"].iloc[0]),
                    "peak": int(peak["id"]),
                    "peak_value": float(peak["value"]),
                    "ids": " ".join(str(i) for i in part["id"]),
                }
            )
        columns = ["cluster", "sign", "parcels", "weight", "kept", "peak", "peak_value", "ids"]
        return pd.DataFrame(rows, columns=columns)

    def provenance(self, notes: list[str] | None = None) -> dict[str, Any]:
        """Return the record of this run, as `provenance.json` holds it."""
        return provenance_of(self, "threshold_parcels", notes)

    def _card(self) -> Card:
        kept = self.table[self.table["kept"]]
        affine = self.affine
        background, regions = self.labels != 0, np.where(np.isin(self.labels, self.kept), self.labels, 0)
        return Card(
            "Parcels above a threshold, with their neighbours",
            [
                ("device", self.device),
                ("threshold", self.settings["rule"]),
                ("kept", f"{len(kept)} of {len(self.table)} parcels, in {self.counts['clusters_kept']} clusters"),
            ],
            kept.drop(columns="kept"),
            "parcels",
            None if affine is None else lambda path: draw_regions(regions, background, affine, path),
            "Cuts through the parcels, those that are kept in colour, numbered.",
        )

    def _shown_map(self) -> ShownMap:
        return ShownMap(self.painted, self._needed_affine(), self.settings["rule"])

    def _needed_affine(self) -> NDArray[np.float64]:
        if self.affine is None:
            raise UsageError(
                "the labels are an array, whose place in space is not known", "pass affine= to threshold_parcels"
            )
        return self.affine


def _plain(name: str) -> str:
    """A name that is a file name everywhere."""
    return "".join(letter if letter.isalnum() or letter in "-_" else "-" for letter in name)
