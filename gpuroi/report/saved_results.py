"""Results read back from the folders that `roi`, `regions`, `clusters`, `parcellate` and `threshold-parcels` write.

Each has the attributes that the pages read of a fresh result. What a folder does not hold, such as the map that was
thresholded, is read from the input files, where these are still there and have not changed; else it is None.
"""

from __future__ import annotations

import hashlib
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from gpuroi.report.saved_record import SavedRecord
from gpuroi.report.saved_screen import read_json, read_table, read_volume

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

    from gpuroi.domains import ParcelGraph
    from gpuroi.images.read import Image

__all__ = ["SavedClusters", "SavedParcellation", "SavedParcels", "SavedRegions", "SavedResult", "SavedRoi"]

_BLOCK = 1 << 20
_DRAWN_OF_ROI = ("t", "log10p", "in_mask", "mean")


class SavedResult(SavedRecord):
    """A folder with its `provenance.json`.

    Parameters
    ----------
    folder : path
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        super().__init__(read_json(self.folder / "provenance.json"))

    def source(self, number: int = 0) -> Image | None:
        """Return an input image, by its place in the list of inputs; None if it has changed or is no longer there."""
        from gpuroi.errors import GpuroiError
        from gpuroi.images.read import open_image

        if not -len(self.inputs) <= number < len(self.inputs):
            return None
        one = self.inputs[number]
        path = Path(one.get("path", ""))
        try:
            if not path.is_file() or path.stat().st_size != one["bytes"] or _sha256(path) != one["sha256"]:
                return None
            return open_image(path)
        except (OSError, GpuroiError):  # gone meanwhile, or no image
            return None

    def image(self, name: str) -> Image:
        """Return an image of the folder."""
        from gpuroi.images.read import open_image

        return open_image(self.folder / name)

    def labels_of(self, name: str) -> NDArray[np.int32]:
        """Return a label image of the folder, int32, shape (X, Y, Z)."""
        return np.rint(read_volume(self.folder / name)[0]).astype(np.int32)


class SavedRoi(SavedResult):
    """A folder of `roi`."""

    @cached_property
    def labels(self) -> NDArray[np.int32]:
        """Regions."""
        return self.labels_of("atlas.nii.gz")

    @cached_property
    def like(self) -> Image:
        """Whose affine is that of the regions."""
        return self.image("atlas.nii.gz")

    @cached_property
    def table(self) -> pd.DataFrame:
        """One row a region."""
        return read_table(self.folder / "atlas.tsv")

    @cached_property
    def signals(self) -> pd.DataFrame:
        """One row a volume."""
        return read_table(self.folder / "signals.tsv", text=["condition"])

    @cached_property
    def maps(self) -> dict[str, NDArray[np.float32]]:
        """The maps that are drawn."""
        return {name: read_volume(self.folder / "maps" / f"{name}.nii.gz")[0] for name in _DRAWN_OF_ROI}


class SavedRegions(SavedResult):
    """A folder of `regions`."""

    @cached_property
    def labels(self) -> NDArray[np.int32]:
        """Regions."""
        return self.labels_of("atlas.nii.gz")

    @cached_property
    def like(self) -> Image:
        """The map; inside the regions alone, if its file has changed or is no longer there."""
        return self.source() or self.image("thresholded.nii.gz")

    @cached_property
    def table(self) -> pd.DataFrame:
        """One row a region."""
        return read_table(self.folder / "atlas.tsv")

    @cached_property
    def thresholded(self) -> NDArray[np.float32]:
        """The map inside the regions."""
        return read_volume(self.folder / "thresholded.nii.gz")[0]


class SavedClusters(SavedResult):
    """A folder of `clusters`."""

    @cached_property
    def labels(self) -> NDArray[np.int32]:
        """Clusters."""
        return self.labels_of("clusters_dseg.nii.gz")

    @cached_property
    def like(self) -> Image:
        """The map; the clusters, if its file has changed or is no longer there."""
        return self.source() or self.image("clusters_dseg.nii.gz")

    @property
    def has_map(self) -> bool:
        """Whether `like` is the map."""
        return self.source() is not None

    @cached_property
    def table(self) -> pd.DataFrame:
        """One row a peak."""
        return read_table(self.folder / "clusters.tsv", text=["Cluster ID", "Peak Label", "Labels (%)"])


class SavedParcellation(SavedResult):
    """A folder of `parcellate`."""

    @cached_property
    def like(self) -> Image:
        """Whose affine is that of the parcels."""
        return self.image("dseg.nii.gz")

    @cached_property
    def labels(self) -> NDArray[np.int32]:
        """Parcels."""
        return self.labels_of("dseg.nii.gz")

    @cached_property
    def table(self) -> pd.DataFrame:
        """One row a parcel."""
        return read_table(self.folder / "dseg.tsv", text=["name", "color"])

    @cached_property
    def quality(self) -> dict[str, Any]:
        """Explained variance and, where asked for, agreement of halves."""
        return read_json(self.folder / "quality.json")

    @cached_property
    def signals(self) -> NDArray[np.float64]:
        """Shape (n_volumes, n_parcels)."""
        return np.asarray(read_table(self.folder / "signals.tsv"), np.float64)

    @property
    def mean_img(self) -> NDArray[np.float32]:
        """Mean of the volumes inside the parcels; parcel by parcel, if a file has changed or is no longer there."""
        images = [self.source(number) for number in range(self.counts["images"])]
        known = [image for image in images if image is not None]
        if len(known) < len(images):
            return self._painted(self.signals.mean(axis=0)).astype(np.float32)
        total = np.zeros(self.labels.shape)
        for image in known:
            for k in range(image.n_volumes):
                total += image.read(k, k + 1)[0]
        mean = total / sum(image.n_volumes for image in known)
        return np.where(self.labels > 0, mean, 0.0).astype(np.float32)

    @cached_property
    def first_volume(self) -> NDArray[np.float32] | None:
        """Of the images, inside the parcels, if their file is there and has not changed."""
        image = self.source()
        if image is None:
            return None
        return np.where(self.labels > 0, image.read(0, 1)[0], np.float32(0))

    def compressed(self, rows: slice = slice(None)) -> NDArray[np.float64]:
        """Return volumes in which every voxel has the mean of its parcel."""
        return np.stack([self._painted(values) for values in self.signals[rows]])

    def _painted(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        by_label = np.zeros(int(self.labels.max(initial=0)) + 1)
        by_label[self.table["index"].to_numpy()] = values
        return np.asarray(by_label[self.labels])


class SavedLevel(NamedTuple):
    """One level of a hierarchy of parcels, and its table."""

    name: str
    table: pd.DataFrame


class SavedParcels(SavedResult):
    """A folder of `threshold-parcels`."""

    @cached_property
    def table(self) -> pd.DataFrame:
        """One row a parcel."""
        return read_table(self.folder / "parcels.tsv", text=["name"])

    @cached_property
    def clusters(self) -> pd.DataFrame:
        """One row a cluster."""
        return read_table(self.folder / "clusters.tsv", text=["ids"])

    @cached_property
    def graph(self) -> ParcelGraph:
        """Neighbours and weights."""
        from gpuroi.parcels.graph_files import load_graph

        return load_graph(self.folder / "graph.tsv")

    @property
    def kept(self) -> list[int]:
        """Ids of the parcels that are kept."""
        return [int(i) for i in self.table.loc[self.table["kept"], "id"]]

    @cached_property
    def levels(self) -> list[SavedLevel]:
        """Levels of a hierarchy."""
        files = {name: self.folder / "levels" / f"{_plain(name)}.tsv" for name in self.settings["levels"]}
        return [SavedLevel(name, read_table(path, text=["parent"])) for name, path in files.items()]

    @cached_property
    def affine(self) -> NDArray[np.float64]:
        """Voxel -> mm."""
        return self.image("kept.nii.gz").affine

    @cached_property
    def painted(self) -> NDArray[np.float32]:
        """Values of the kept parcels."""
        return read_volume(self.folder / "kept.nii.gz")[0]

    @cached_property
    def labels(self) -> NDArray[np.int32] | None:
        """All parcels: from the first input that has them, if its file has not changed."""
        for number in range(1, len(self.inputs)):
            image = self.source(number)
            if image is None or image.is_4d:
                continue
            found: NDArray[np.int32] = np.rint(image.read_one()).astype(np.int32)
            if np.array_equal(np.unique(found[found > 0]), self.graph.ids):
                return found
        return None

    @cached_property
    def map(self) -> NDArray[Any] | None:
        """The map, or its values painted; None without its file."""
        from gpuroi.parcels.values import paint

        if self.settings["summary"] is not None:
            image = self.source()
            return None if image is None else image.read_one()
        if self.labels is None:
            return None
        return paint(np.nan_to_num(self.table["value"].to_numpy(np.float64)), self.graph.ids, self.labels)


def _plain(name: str) -> str:
    """The name as files have it."""
    return "".join(letter if letter.isalnum() or letter in "-_" else "-" for letter in name)


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()
