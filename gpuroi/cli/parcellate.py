"""`gpuroi parcellate`: from images to parcels."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from gpuroi.cli.summary import show

__all__ = ["parcellate"]

Connectivity = Literal[6, 18, 26]


def parcellate(
    bold: list[Path],
    /,
    *,
    out: Path,
    method: Literal["ward", "kmeans", "rena", "hierarchical_kmeans"] = "ward",
    n_parcels: int = 100,
    mask: Path | None = None,
    fwhm_mm: Annotated[float | None, Parameter(name=["--fwhm", "--fwhm-mm"])] = None,
    standardize: bool = False,
    connectivity: Connectivity = 6,
    split_pieces: bool = False,
    n_init: int = 1,
    n_resamples: int = 0,
    seed: int = 0,
    compressed: Annotated[bool, Parameter(negative="--no-compressed")] = True,
    figures: Annotated[bool, Parameter(negative="--no-figures")] = True,
    device: str = "auto",
    memory_limit: str | None = None,
    overwrite: bool = False,
) -> int:
    """Divide the brain into parcels of voxels with similar series.

    gpuroi parcellate bold.nii.gz --method ward --n-parcels 2000 --mask mask.nii.gz --out parcels/

    Parameters
    ----------
    bold
        4-D runs or 3-D maps on one grid; all volumes count as samples.
    out
        Folder to write: parcels, their table and signals, the compressed images, quality, a report.
    method
        ward and rena merge neighbours; kmeans and hierarchical_kmeans look at the series alone.
    n_parcels
        How many.
    mask
        Image, non-zero inside; by default the voxels that are finite and vary over time in every image.
    fwhm_mm
        Smooth to learn, within the mask; signals and compressed images are never smoothed.
    standardize
        Learn from series of mean 0 and standard deviation 1 in each image.
    connectivity
        Neighbours of a voxel: faces (6), and edges (18), and corners (26).
    split_pieces
        Make a parcel of each connected piece.
    n_init
        Runs of K-means, the best of which counts.
    n_resamples
        Pairs of random halves of the volumes to parcellate and compare.
    seed
        Of K-means and of the halves.
    compressed
        Write the images with the mean of its parcel in every voxel.
    figures
        Draw figures, for the report too.
    device
        auto, cpu, cuda, or cuda:N.
    memory_limit
        Bytes to smooth with on the device, as 400MB or 8GB.
    overwrite
        Replace earlier results in the folder.

    Returns
    -------
    int
        Exit code.
    """
    from gpuroi.workflows.output import check_output
    from gpuroi.workflows.parcellate import parcellate as divide

    check_output(out, overwrite=overwrite)
    result = divide(
        bold,
        method=method,
        n_parcels=n_parcels,
        mask=mask,
        fwhm_mm=fwhm_mm,
        standardize=standardize,
        connectivity=connectivity,
        split_pieces=split_pieces,
        n_init=n_init,
        n_resamples=n_resamples,
        seed=seed,
        device=device,
        memory_limit=memory_limit,
    )
    result.save(out, overwrite=overwrite, figures=figures, compressed=compressed)
    counts, quality = result.counts, result.quality
    facts = [
        ("device", result.device),
        ("volumes", str(counts["volumes"])),
        ("parcels", f"{counts['parcels']} of {counts['voxels_of_smallest']} to {counts['voxels_of_largest']} voxels"),
        ("variance kept", f"{100 * quality['explained_variance']:.1f} %"),
    ]
    if n_resamples:
        facts.append(("halves agree", f"Dice {quality['dice']:.3f}, adjusted Rand {quality['adjusted_rand']:.3f}"))
    show([*facts, ("written", str(out / "report.html"))])
    return 0
