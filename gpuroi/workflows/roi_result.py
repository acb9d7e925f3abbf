"""What `roi` found, and the folder that it is saved to."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gpuroi._card import Card
from gpuroi.errors import UsageError
from gpuroi.workflows.notebook import HasMap, ShownMap, draw_regions
from gpuroi.workflows.output import atlas_image, can_draw, described_columns, result_folder
from gpuroi.workflows.provenance import provenance_of

if TYPE_CHECKING:
    import os

    import pandas as pd
    from numpy.typing import NDArray

    from gpuroi.images.read import Image

__all__ = ["RoiResult", "make_result"]

_MAPS: dict[str, tuple[Any, str]] = {  # name: type on disk, and what it shows
    "t": (np.float32, "t, first condition minus second; NaN where a volume is missing or nothing changes"),
    "log10p": (np.float32, "-log10 of the two-sided p of t, uncorrected; 0 where t is NaN"),
    "log10p_clipped": (np.float32, "-log10 p clipped at 10, for viewing; 0 where t is NaN"),
    "thresholded": (np.float32, "-log10 p where it is at least the threshold, 0 elsewhere"),
    "in_mask": (np.uint8, "1 where -log10 p is at least the threshold, inside the mask"),
    "dilated": (np.uint8, "1 in the regions after dilation, before small ones are dropped"),
    "mean": (np.float32, "mean of all volumes before smoothing; 0 where a value is missing"),
}


@dataclass(frozen=True)
class RoiResult(HasMap):
    """Regions of interest of one contrast.

    Attributes
    ----------
    atlas : nibabel image, int32
        0 outside, 1..n in the regions, numbered by their first voxel in C order.
    table : DataFrame
        One row per region: `id`, `voxels`, `mm3`, `peak_x`, `peak_y`, `peak_z` (mm, where `abs(t)` is largest),
        `peak_t`, `center_x`, `center_y`, `center_z` (mm).
    signals : DataFrame
        One row per volume of every run: `run` from 1, `volume` from 0 in each run, `condition`, then `region-1`,
        `region-2`, ...: the mean of the smoothed data over the region, NaN where a voxel of it is missing.
    maps : dict of str to array of shape (X, Y, Z)
        `t`, `log10p` (-log10 p, so that large is significant), `log10p_clipped`, `thresholded`, `in_mask`,
        `dilated`, `mean`.
    settings : dict
        The arguments, with the defaults filled in.
    timings : dict of str to float
        Seconds per stage.
    counts : dict
        Volumes, voxels and regions after every step.
    inputs : list of dict
        Path, size and SHA-256 of every input file.
    device : str
        Where it was computed.
    """

    atlas: Any
    table: pd.DataFrame
    signals: pd.DataFrame
    maps: dict[str, NDArray[Any]]
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

    def image(self, name: str) -> Any:
        """Return one of the maps as an image.

        Parameters
        ----------
        name : str
            As in `maps`: "t", "log10p", ...

        Returns
        -------
        nibabel image
            In the space of the run; float32, or uint8 for what is true or false.

        Raises
        ------
        UsageError
            If there is no such map.
        """
        from gpuroi.images.make_image import image_like

        if name not in self.maps:
            raise UsageError(f"no map is called {name!r}", f"maps: {', '.join(self.maps)}")
        return image_like(np.asarray(self.maps[name], dtype=_MAPS[name][0]), self.like)

    def save(
        self,
        folder: str | os.PathLike[str],
        *,
        overwrite: bool = False,
        region_masks: bool = False,
        figures: bool = True,
    ) -> Path:
        """Write everything into a folder, whole or not at all.

        Parameters
        ----------
        folder : path
            Gets `atlas.nii.gz`, `atlas.tsv`, `signals.tsv`, `maps/` with a sidecar beside every map, `report.html`,
            `figures/`, `provenance.json` and `dataset_description.json`.
        overwrite : bool, default False
            Replace earlier results in this folder.
        region_masks : bool, default False
            Also write `region_masks/region-<id>.nii.gz`, one image per region.
        figures : bool, default True
            Draw a box plot per region and condition, the regions on the mean image and the map of -log10 p. Without
            matplotlib they are left out, which is said in the log and in `provenance.json`.

        Returns
        -------
        Path
            The folder.

        Raises
        ------
        OutputError
            If the folder holds results already, holds something else, or cannot be written.
        """
        from gpuroi.images.write import write_tsv
        from gpuroi.report.page import roi_page, roi_pictures

        shown: dict[str, Any] = {"page": roi_page, "pictures": roi_pictures, "figures": figures}
        with result_folder(
            self, folder, name="Regions of interest of a contrast", overwrite=overwrite, **shown
        ) as staged:
            self._save_images(staged, region_masks)
            write_tsv(staged / "atlas.tsv", self.table)
            write_tsv(staged / "signals.tsv", self.signals)
        return Path(folder)

    def report(self) -> str:
        """Return the report: one HTML page that needs no network and no other file."""
        from gpuroi.report.page import roi_page

        return roi_page(self, [] if can_draw() else None)

    def provenance(self, notes: list[str] | None = None) -> dict[str, Any]:
        """Return the record of this run, as `provenance.json` holds it."""
        return provenance_of(self, "roi", notes)

    def _card(self) -> Card:
        settings, counts = self.settings, self.counts
        volumes = ", ".join(f"{name} {n}" for name, n in counts["volumes_per_condition"].items())
        return Card(
            f"Regions of interest: {settings['first']} against {settings['second']}",
            [
                ("device", self.device),
                ("volumes", f"{counts['volumes']} ({volumes})"),
                ("threshold", f"-log10 p >= {settings['threshold_log10p']:g}, per voxel, not corrected"),
                ("regions", f"{counts['regions']}, {counts['voxels_in_regions']} voxels"),
            ],
            self.table,
            "regions",
            lambda path: draw_regions(self.labels, self.maps["mean"], self.like.affine, path),
            "Cuts through the mean image with the regions in colour, numbered.",
        )

    def _shown_map(self) -> ShownMap:
        title = f"t of {self.settings['first']} against {self.settings['second']}, in the regions"
        values = np.where(self.labels > 0, self.maps["t"], 0)
        return ShownMap(values, self.like.affine, title, background=self.maps["mean"])

    def _save_images(self, folder: Path, region_masks: bool) -> None:
        from gpuroi.images.write import save_image

        affine, labels = self.like.affine, self.labels
        described = {"Contrast": self.settings["contrast"], "Settings": self.settings}
        text = "regions of interest, 0 outside; ids as in atlas.tsv"
        sidecar = {**described_columns(self.table), **described, "Description": text}
        save_image(folder / "atlas.nii.gz", labels, affine, like=self.like, sidecar=sidecar)
        for name, (dtype, text) in _MAPS.items():
            values = self.maps[name]
            if name != "t" and values.dtype.kind == "f":
                values = np.where(np.isnan(values), 0, values)
            sidecar = {**described, "Description": text}
            save_image(folder / "maps" / f"{name}.nii.gz", values, affine, like=self.like, dtype=dtype, sidecar=sidecar)
        for i in self.table["id"] if region_masks else ():
            save_image(
                folder / "region_masks" / f"region-{i}.nii.gz", labels == i, affine, like=self.like, dtype=np.uint8
            )


def make_result(
    labels: NDArray[np.int32],
    maps: dict[str, NDArray[Any]],
    signals: pd.DataFrame,
    *,
    like: Image,
    n_runs: int,
    settings: dict[str, Any],
    inputs: list[dict[str, Any]],
    timings: dict[str, float],
    device: str,
) -> RoiResult:
    """Put a result together: the atlas as an image, its table, and what was counted on the way."""
    from gpuroi.images.describe_regions import region_table

    table = region_table(labels, maps["t"], like.affine).rename(columns={"peak_stat": "peak_t"})
    per_condition = signals["condition"].value_counts().sort_index()
    counts = {
        "runs": n_runs,
        "volumes": len(signals),
        "volumes_per_condition": {str(name): int(n) for name, n in per_condition.items()},
        "voxels": int(labels.size),
        "voxels_tested": int((~np.isnan(maps["log10p"])).sum()),
        "voxels_thresholded": int((maps["log10p"] >= settings["threshold_log10p"]).sum()),
        "voxels_in_mask": int(maps["in_mask"].sum()),
        "voxels_dilated": int(maps["dilated"].sum()),
        "voxels_in_regions": int((labels != 0).sum()),
        "regions": len(table),
    }
    return RoiResult(
        atlas_image(labels, like), table, signals, maps, settings, dict(timings), counts, inputs, device, like
    )
