"""What `screen` wrote, read back from its folder: the report is made of files alone."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from gpuroi.errors import DataError
from gpuroi.report.anatomy import anatomy_below

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

__all__ = ["ALPHA", "Cut", "SavedContrast", "SavedScreen", "read_json", "read_table", "read_volume", "upper_limit"]

ALPHA = 0.05
LOGP_OF_ALPHA = -np.log10(ALPHA) - 1e-6  # maps are float32
_CORRECTED = {  # by the name in the file
    "voxelFWE": "familywise, voxel by voxel",
    "sizeFWE": "familywise, cluster size",
    "massFWE": "familywise, cluster mass",
    "tfceFWE": "familywise, TFCE",
    "FDR": "false discovery rate",
}


class Cut(NamedTuple):
    """Which voxels of a statistic are shown: those of `inside`; at `value` and above, if a value decides."""

    inside: NDArray[np.bool_]  # (X, Y, Z)
    value: float
    text: str


@dataclass(frozen=True)
class SavedScreen:
    """The folder of a screening.

    Attributes
    ----------
    folder : Path
    design : DataFrame
        One row a person: `participant_id`, then the regressors.
    about_design : dict
        `design.json`.
    people, excluded : DataFrame
        Who was analysed, in the order of the design; who was not, with `reason` and `detail`.
    mask : bool array, shape (X, Y, Z)
    affine : float64 array, shape (4, 4)
    coverage : float32 array, shape (X, Y, Z)
        Number of maps that have each voxel.
    contrasts : list of SavedContrast
    roi_means : DataFrame or None
    provenance : dict
    """

    folder: Path
    design: pd.DataFrame
    about_design: dict[str, Any]
    people: pd.DataFrame
    excluded: pd.DataFrame
    mask: NDArray[np.bool_]
    affine: NDArray[np.float64]
    coverage: NDArray[np.float32]
    contrasts: list[SavedContrast]
    roi_means: pd.DataFrame | None
    provenance: dict[str, Any]

    @classmethod
    def read(cls, folder: str | Path) -> SavedScreen:
        """Read a folder.

        Parameters
        ----------
        folder : path

        Returns
        -------
        SavedScreen
            Maps of contrasts are read when they are asked for.

        Raises
        ------
        DataError
            If a file is missing or cannot be read.
        """
        home = Path(folder)
        about = read_json(home / "design.json")
        mask, affine = read_volume(home / "mask.nii.gz")
        rois = home / "roi_means.tsv"
        return cls(
            home,
            read_table(home / "design.tsv", text=["participant_id"]),
            about,
            read_table(home / "participants_used.tsv", text=["participant_id"]),
            read_table(home / "excluded.tsv", text=True),
            mask != 0,
            affine,
            read_volume(home / "stat-n_statmap.nii.gz")[0],
            [SavedContrast(home, one, mask != 0) for one in about["Contrasts"]],
            read_table(rois, text=["participant_id"]) if rois.is_file() else None,
            read_json(home / "provenance.json"),
        )

    @cached_property
    def anatomy(self) -> tuple[NDArray[Any], str]:
        """What to draw in grey below the maps, and what it is; see `anatomy_below`."""
        from gpuroi.images.read import open_image

        return anatomy_below(open_image(self.folder / "mask.nii.gz"), self.mask)

    @property
    def settings(self) -> dict[str, Any]:
        """The arguments of the run."""
        return dict(self.provenance["settings"])

    @property
    def matrix(self) -> NDArray[np.float64]:
        """The design, float64, shape (n, p)."""
        return np.asarray(self.design[self.about_design["Columns"]], np.float64)


@dataclass(frozen=True)
class SavedContrast:
    """The files of one contrast; each is read when it is first asked for."""

    folder: Path
    about: dict[str, Any]  # its entry in design.json
    mask: NDArray[np.bool_]

    @property
    def name(self) -> str:
        """As it was given."""
        return str(self.about["Name"])

    @property
    def label(self) -> str:
        """As files have it."""
        return str(self.about["Label"])

    @property
    def weights(self) -> NDArray[np.float64]:
        """Of the columns of the design, float64, shape (k, p)."""
        return np.atleast_2d(np.asarray(self.about["Weights"], np.float64))

    @property
    def signed(self) -> bool:
        """True for t and v, which have a sign."""
        return str(self.about["Kind"]) == "t"

    @cached_property
    def kind(self) -> str:
        """t, F, v or G: the statistic that was written."""
        for kind in "tFvG":
            if self._path(f"stat-{kind}_statmap.nii.gz").is_file():
                return kind
        raise DataError(
            f"{self._path('stat-*_statmap.nii.gz')}: there is no map of t, F, v or G", "the folder is not whole"
        )

    @cached_property
    def sidecar(self) -> dict[str, Any]:
        """Of the statistic."""
        return read_json(self._path(f"stat-{self.kind}_statmap.json"))

    @property
    def two_sided(self) -> bool:
        """Whether either sign counts."""
        return self.signed and bool(self.sidecar.get("TwoSided", True))

    @property
    def n_permutations(self) -> int:
        """0: parametric only."""
        return int(self.sidecar.get("NumberOfPermutations") or 0)

    @cached_property
    def statistic(self) -> NDArray[np.float32]:
        """Shape (X, Y, Z); 0 outside the mask, NaN where there is none. On the scale of the threshold: see `shown`."""
        return self._map(f"stat-{self.shown}_statmap.nii.gz")

    @property
    def shown(self) -> str:
        """The name of `statistic`: z, where that is what was compared; else the statistic itself."""
        as_z = self.sidecar.get("ClusterThreshold") is not None and self.sidecar.get("ClusterScale") == "z"
        return "z" if as_z or self.kind in "vG" else self.kind

    @cached_property
    def p(self) -> NDArray[np.float64]:
        """Uncorrected p of the voxels of the mask that have one, shape (v,)."""
        values = self._map("stat-p_statmap.nii.gz")[self.mask].astype(np.float64)
        return values[np.isfinite(values)]

    @cached_property
    def corrected(self) -> dict[str, NDArray[np.float32]]:
        """Maps of -log10 of the corrected p that were computed, by name: voxelFWE, sizeFWE, massFWE, tfceFWE, FDR."""
        paths = {name: self._path(f"stat-logp_desc-{name}_statmap.nii.gz") for name in _CORRECTED}
        return {name: read_volume(path)[0] for name, path in paths.items() if path.is_file()}

    @cached_property
    def clusters(self) -> pd.DataFrame:
        """The table of clusters."""
        return read_table(self._path("clusters.tsv"), text=["Peak Label", "Labels (%)"])

    @cached_property
    def rule(self) -> str:
        """What makes a cluster, in words."""
        return str(read_json(self._path("clusters.json")).get("Rule", ""))

    @cached_property
    def labels(self) -> NDArray[np.int32]:
        """Ids of the table, int32, shape (X, Y, Z); 0 outside."""
        return np.rint(read_volume(self._path("desc-clusters_dseg.nii.gz"))[0]).astype(np.int32)

    @cached_property
    def cluster_means(self) -> pd.DataFrame:
        """Mean of the maps over each cluster, one row a person."""
        return read_table(self._path("desc-clusters_means.tsv"), text=["participant_id"])

    @cached_property
    def null(self) -> pd.DataFrame | None:
        """The largest statistics of each permutation, the identity first; None if nothing was permuted."""
        path = self._path("null.tsv")
        return read_table(path) if path.is_file() else None

    @cached_property
    def significant(self) -> list[int]:
        """Ids of the clusters with a corrected p of 0.05 or less: of size or mass, else of TFCE or of the peak."""
        return [int(i) for i in self.clusters.loc[self.cluster_p <= ALPHA, "Cluster ID"]]

    @property
    def cluster_p(self) -> pd.Series:
        """Smallest corrected p of each cluster, of the kind that `p_means` says."""
        return self._cluster_p[0]

    @property
    def p_means(self) -> str:
        """What `cluster_p` is."""
        return self._cluster_p[1]

    @cached_property
    def _cluster_p(self) -> tuple[pd.Series, str]:
        table = self.clusters
        for names, text in (
            (["p_size_FWE", "p_mass_FWE"], "familywise p of size or mass"),
            (["p_tfce_FWE"], "familywise p of TFCE"),
            (["p_peak_FWE"], "familywise p at the peak"),
        ):
            known = [name for name in names if name in table and table[name].notna().any()]
            if known:
                return table[known].min(axis=1), text
        return table["Cluster ID"] * 0.0 + ALPHA, "false discovery rate"  # each cluster has passed it

    @cached_property
    def cut(self) -> Cut:
        """What pictures show: above the cluster-forming threshold, else where the corrected p is 0.05 or less."""
        forming, values = self.sidecar.get("ClusterThreshold"), np.nan_to_num(self.statistic)
        bars = f"|{self.shown}|" if self.two_sided else self.shown
        size = np.abs(values) if self.two_sided else values
        if forming is not None:
            return Cut(size > forming, float(forming), f"{bars} > {forming:.4g}, the cluster-forming threshold")
        name = next(name for name in ("tfceFWE", "voxelFWE", "FDR") if name in self.corrected)
        inside = (self.corrected[name] >= LOGP_OF_ALPHA) & self.mask
        text = f"{_CORRECTED[name]}: p ≤ {ALPHA:g}"
        if inside.any():
            least = float(size[inside].min())
            return Cut(inside, least, f"{text}; the smallest {bars} among them is {least:.3g}")
        least = self.critical if name == "voxelFWE" and self.critical is not None else float(size.max(initial=0.0))
        return Cut(inside, least, f"{text}; {bars} would have to be above {least:.3g}" if name == "voxelFWE" else text)

    def release(self) -> None:
        """Let go of the maps; they are read again when they are asked for."""
        for name in ("statistic", "p", "corrected", "labels", "cut"):
            self.__dict__.pop(name, None)

    @property
    def critical(self) -> float | None:
        """The largest statistic whose familywise p is above 0.05: what lies above it is significant."""
        return None if self.null is None else upper_limit(self.null["max_stat"].to_numpy(np.float64))

    def _path(self, name: str) -> Path:
        return self.folder / f"contrast-{self.label}_{name}"

    def _map(self, name: str) -> NDArray[np.float32]:
        return read_volume(self._path(name))[0]


def upper_limit(null: NDArray[np.float64]) -> float:
    """Return the value that an observed maximum must exceed for p <= 0.05, the identity counted.

    Examples
    --------
    >>> upper_limit(np.arange(100.0))
    94.0
    """
    allowed = int(ALPHA * len(null) + 1e-9)  # so many may reach the observed value, itself among them
    return float(np.sort(null)[::-1][min(allowed, len(null) - 1)])


def read_volume(path: Path) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Read one volume: float32, shape (X, Y, Z), and its affine."""
    from gpuroi.images.read import open_image

    image = open_image(_existing(path))
    return image.read_one(), image.affine


def read_table(path: Path, *, text: bool | list[str] | None = None) -> pd.DataFrame:
    """Read a table: "n/a" is missing; the columns `text` stay text, all of them where it is True."""
    import pandas as pd

    kinds: Any = str if text is True else dict.fromkeys(text or (), str)
    with _existing(path).open(encoding="utf-8", newline="") as file:
        return pd.read_csv(file, sep="\t", na_values=["n/a"], keep_default_na=False, dtype=kinds)


def read_json(path: Path) -> dict[str, Any]:
    """Read an object."""
    try:
        found = json.loads(_existing(path).read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"{path}: is no JSON: {error}", "the folder is not as gpuroi wrote it") from None
    if not isinstance(found, dict):
        raise DataError(f"{path}: holds a {type(found).__name__}, expected an object")
    return found


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise DataError(f"{path}: there is no such file", "give a folder of results that is whole")
    return path
