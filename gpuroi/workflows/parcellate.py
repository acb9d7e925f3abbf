"""Parcellate: images in; parcels, their signals, the compressed images and their quality out."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gpuroi._card import Card, HasCard
from gpuroi.backends import get_backend
from gpuroi.backends.memory import parse_bytes
from gpuroi.errors import UsageError
from gpuroi.workflows.notebook import show_in_niivue
from gpuroi.workflows.output import atlas_image, can_draw, result_folder
from gpuroi.workflows.provenance import describe_inputs, provenance_of
from gpuroi.workflows.stopwatch import Stopwatch

if TYPE_CHECKING:
    import os

    import pandas as pd
    from numpy.typing import NDArray

    from gpuroi.images.read import Image
    from gpuroi.parcels.parcellation import Parcellation
    from gpuroi.parcels.series import Series

__all__ = ["ParcellateResult", "parcellate"]


@dataclass(frozen=True)
class ParcellateResult(HasCard):
    """A parcellation of the brain, and the images in terms of it.

    Attributes
    ----------
    parcellation : Parcellation
        Fitted: `transform`, `inverse_transform`, and of "ward" `with_n_parcels` for other numbers of parcels.
    table : DataFrame
        One row a parcel: `index`, `name`, `color` (the one of the pictures), `voxels`, `mm3`, `center_x`, `center_y`,
        `center_z` (mm), `pieces` (1 where it is connected).
    signals : float64 array, shape (n_volumes, n_parcels)
        Mean of each parcel in each volume of the images as they were given, in the order of the table.
    quality : dict
        `explained_variance` of the images as they were given; `dice` and `adjusted_rand` between random halves of the
        volumes, where asked for.
    mean_img : float32 array, shape (X, Y, Z)
        Mean of the volumes inside the mask, 0 outside.
    first_volume : float32 array, shape (X, Y, Z)
    settings : dict
        The arguments.
    timings : dict of str to float
        Seconds per stage.
    counts : dict
    inputs : list of dict
    device : str
    """

    parcellation: Parcellation
    table: pd.DataFrame
    signals: NDArray[np.float64]
    quality: dict[str, Any]
    mean_img: NDArray[np.float32]
    first_volume: NDArray[np.float32]
    settings: dict[str, Any]
    timings: dict[str, float]
    counts: dict[str, Any] = field(repr=False)
    inputs: list[dict[str, Any]] = field(repr=False)
    device: str
    like: Image = field(repr=False)

    @property
    def labels(self) -> NDArray[np.int32]:
        """Parcel of each voxel, int32, shape (X, Y, Z); 0 outside the mask."""
        return np.asarray(self.parcellation.domain_.to_volume(self.parcellation.labels_))

    @property
    def labels_img(self) -> Any:
        """The same as a nibabel image, int32."""
        return atlas_image(self.labels, self.like)

    def compressed(self, rows: slice = slice(None)) -> NDArray[np.float32]:
        """Return volumes in which every voxel has the mean of its parcel.

        Parameters
        ----------
        rows : slice
            Which volumes; all by default.

        Returns
        -------
        float32 array, shape (n, X, Y, Z)
            0 outside the mask; each volume in the order of the disk.
        """
        domain = self.parcellation.domain_
        values = self.signals[rows].astype(np.float32)
        number = self.labels.T  # x fastest, as NIfTI has it
        padded = np.concatenate([np.zeros((len(values), 1), np.float32), values], axis=1)
        volumes = np.empty((len(values), *domain.mask.shape[::-1]), np.float32)
        for i in range(len(values)):
            np.take(padded[i], number, out=volumes[i])
        return volumes.transpose(0, 3, 2, 1)

    def save(
        self,
        folder: str | os.PathLike[str],
        *,
        overwrite: bool = False,
        figures: bool = True,
        compressed: bool = True,
    ) -> Path:
        """Write everything into a folder, whole or not at all.

        Parameters
        ----------
        folder : path
            Gets `dseg.nii.gz`, `dseg.tsv`, `signals.tsv`, `compressed.nii.gz`, `quality.json`, sidecars, `report.html`,
            `figures/`, `provenance.json` and `dataset_description.json`.
        overwrite : bool, default False
            Replace earlier results in this folder.
        figures : bool, default True
            Draw the parcels and the compressed image. Without matplotlib they are left out, which is said in the log
            and in `provenance.json`.
        compressed : bool, default True
            Write the compressed images, which are as large as the images themselves.

        Returns
        -------
        Path
            The folder.

        Raises
        ------
        OutputError
            If the folder holds results already, holds something else, or cannot be written.
        """
        from gpuroi.images.write import save_image, write_json, write_tsv
        from gpuroi.report.parcellation_page import parcellation_page, parcellation_pictures

        affine = self.like.affine
        with result_folder(
            self,
            folder,
            name="Parcellation",
            page=parcellation_page,
            pictures=parcellation_pictures,
            overwrite=overwrite,
            figures=figures,
        ) as staged:
            text = "parcels, 0 outside the mask; names and colours in dseg.tsv"
            sidecar = {"Description": text, "Settings": self.settings}
            save_image(staged / "dseg.nii.gz", self.labels, affine, like=self.like, sidecar=sidecar)
            write_tsv(staged / "dseg.tsv", self.table)
            write_tsv(staged / "signals.tsv", self._signal_table())
            if compressed:
                text = "the images, every voxel with the mean of its parcel; volumes of several images in their order"
                sidecar = {"Description": text, "Settings": self.settings}
                save_image(staged / "compressed.nii.gz", self.compressed(), affine, like=self.like, sidecar=sidecar)
            write_json(staged / "quality.json", self.quality)
        return Path(folder)

    def report(self) -> str:
        """Return the report: one HTML page that needs no network and no other file."""
        from gpuroi.report.parcellation_page import parcellation_page

        return parcellation_page(self, [] if can_draw() else None)

    def provenance(self, notes: list[str] | None = None) -> dict[str, Any]:
        """Return the record of this run, as `provenance.json` holds it."""
        return provenance_of(self, "parcellate", notes, more_counts=self.quality)

    def view(self) -> Any:
        """Show the parcels over the mean image, in a notebook, with niivue.

        Returns
        -------
        ipyniivue.NiiVue

        Raises
        ------
        OutputError
            If ipyniivue is not installed.
        """
        parcels = ("parcels", self.labels, {"colormap": "random", "opacity": 0.6})
        return show_in_niivue(self.like.affine, self.mean_img, parcels)

    def _card(self) -> Card:
        from gpuroi.report.parcellation_figures import save_parcels_picture

        counts = self.counts
        sizes = f"{counts['voxels_of_smallest']} to {counts['voxels_of_largest']} voxels"
        return Card(
            "Parcellation",
            [
                ("device", self.device),
                ("volumes", str(counts["volumes"])),
                ("parcels", f"{counts['parcels']} of {sizes}"),
                ("variance kept", f"{100 * self.quality['explained_variance']:.1f} %"),
            ],
            self.table,
            "parcels",
            lambda path: save_parcels_picture(self.labels, self.mean_img, self.like.affine, path),
            "Cuts through the mean image with the parcels in colour.",
        )

    def _signal_table(self) -> pd.DataFrame:
        import pandas as pd

        return pd.DataFrame(self.signals.astype(np.float32), columns=list(self.table["name"]))


def parcellate(
    imgs: Any,
    *,
    method: str = "ward",
    n_parcels: int = 100,
    mask: Any = None,
    fwhm_mm: float | tuple[float, float, float] | None = None,
    standardize: bool = False,
    connectivity: int = 6,
    split_pieces: bool = False,
    n_init: int = 1,
    n_resamples: int = 0,
    seed: int = 0,
    device: str = "auto",
    memory_limit: str | int | None = None,
) -> ParcellateResult:
    """Divide the brain into parcels of voxels with similar series, and describe the images by their means.

    Parameters
    ----------
    imgs : image, path, pattern, or list of these
        4-D runs or 3-D maps, on one grid. All volumes count as samples.
    method : {"ward", "kmeans", "rena", "hierarchical_kmeans"}, default "ward"
    n_parcels : int, default 100
    mask : path or image, optional
        Non-zero inside. None: the voxels that are finite and vary over time in every image.
    fwhm_mm : float or three, optional
        Smooth within the mask before learning. Signals, compressed images and quality are of the images as given.
    standardize : bool, default False
        Learn from series of mean 0 and standard deviation 1 in each image.
    connectivity : {6, 18, 26}, default 6
    split_pieces : bool, default False
        Make a parcel of each connected piece.
    n_init : int, default 1
        Runs of K-means.
    n_resamples : int, default 0
        Pairs of random halves of the volumes to parcellate and compare.
    seed : int, default 0
    device : {"auto", "cpu", "cuda", "cuda:N"}
    memory_limit : int or str, optional
        Bytes to smooth with on the device.

    Returns
    -------
    ParcellateResult

    Raises
    ------
    UsageError
        An argument outside its range; more parcels than voxels.
    DataError
        A file that cannot be used; series that are constant or not finite; fewer distinct series than parcels.
    GridError
        A mask or an image on another grid.
    DeviceError
        If the device asked for cannot be used.

    Examples
    --------
    >>> import nibabel, numpy as np
    >>> rng = np.random.default_rng(0)
    >>> values = np.repeat(rng.standard_normal((2, 4, 4, 30)), 3, axis=0).astype(np.float32)
    >>> result = parcellate(nibabel.Nifti1Image(values, np.eye(4)), n_parcels=32, device="cpu")
    >>> len(result.table), result.signals.shape, round(result.quality["explained_variance"], 3)
    (32, (30, 32), 1.0)
    """
    from gpuroi.parcels.parcellation import Parcellation
    from gpuroi.parcels.series import read_series

    if n_resamples < 0:
        raise UsageError(f"n_resamples is {n_resamples}", "use 0 or more")
    if connectivity not in (6, 18, 26):
        raise UsageError(f"connectivity is {connectivity!r}", "use 6 (faces), 18 (and edges) or 26 (and corners)")
    backend = get_backend(device)
    limit = None if memory_limit is None else parse_bytes(memory_limit)
    settings: dict[str, Any] = {
        "method": method,
        "n_parcels": n_parcels,
        "fwhm_mm": fwhm_mm,
        "standardize": bool(standardize),
        "connectivity": int(connectivity),
        "split_pieces": bool(split_pieces),
        "n_init": n_init,
        "seed": seed,
    }
    parcellation = Parcellation(mask=mask, device=device, **settings).check_settings()
    watch = Stopwatch()
    how: dict[str, Any] = {"connectivity": connectivity, "backend": backend, "memory_limit": limit}
    with watch("read"):
        series = read_series(imgs, mask, checked=True, **how)
        learnt = series if not fwhm_mm else None
        inputs = describe_inputs([*_listed(imgs), mask])
    if learnt is None:
        with watch("smooth"):
            learnt = series.smoothed(fwhm_mm, backend=backend, memory_limit=limit)
    with watch("parcellate"):
        parcellation.fit_series(learnt)
    with watch("quality"):
        signals = parcellation.transform(series.values)
        quality = {"explained_variance": parcellation.score(series.values)}
        if n_resamples:
            quality.update(_reproducibility(parcellation, learnt, n_resamples, seed))
    table = _table(parcellation, series.like.affine)
    counts = {
        "images": len(series.runs),
        "volumes": len(series.values),
        "voxels_inside": series.domain.n_elements,
        "parcels": parcellation.n_parcels_,
        "parcels_in_pieces": int((table["pieces"] > 1).sum()),
        "voxels_of_smallest": int(table["voxels"].min()),
        "voxels_of_largest": int(table["voxels"].max()),
    }
    domain, read = series.domain, series.values  # noqa: PD011 (no DataFrame)
    return ParcellateResult(
        parcellation,
        table,
        signals,
        quality,
        domain.to_volume(read.mean(axis=0, dtype=np.float64).astype(np.float32)),
        domain.to_volume(read[0]),
        {**settings, "mask": mask is not None, "n_resamples": n_resamples},
        watch.seconds,
        counts,
        inputs,
        backend.device,
        series.like,
    )


def _listed(imgs: Any) -> list[Any]:
    """Return what was given, pattern by pattern, as the files that were read."""
    from gpuroi.images.read import open_images

    return [Path(i.name) if Path(i.name).is_file() else i for i in open_images(imgs)]


def _reproducibility(parcellation: Parcellation, series: Series, n_resamples: int, seed: int) -> dict[str, Any]:
    from sklearn.base import clone

    from gpuroi.parcels.quality import reproducibility

    single = clone(parcellation).set_params(domain=series.domain, mask=None, fwhm_mm=None)
    found = reproducibility(single, series.values, n_resamples=n_resamples, seed=seed)
    return {
        "dice": float(found.dice.mean()),
        "adjusted_rand": float(found.adjusted_rand.mean()),
        "dice_of_each": found.dice.tolist(),
        "adjusted_rand_of_each": found.adjusted_rand.tolist(),
    }


def _table(parcellation: Parcellation, affine: NDArray[np.float64]) -> pd.DataFrame:
    from gpuroi.images import region_table
    from gpuroi.parcels.numbering import pieces
    from gpuroi.report.parcellation_figures import parcel_colour

    labels = parcellation.domain_.to_volume(parcellation.labels_)
    table = region_table(labels, np.zeros(labels.shape), affine)
    table = table.drop(columns=[name for name in table.columns if name.startswith("peak")])
    table = table.rename(columns={"id": "index"})
    table.insert(1, "name", [f"parcel-{i}" for i in table["index"]])
    table.insert(2, "color", [parcel_colour(i) for i in table["index"]])
    piece = pieces(parcellation.labels_, parcellation.domain_.graph)
    _, first = np.unique(piece, return_index=True)
    table["pieces"] = np.bincount(parcellation.labels_[first])[1:]
    return table
