"""`gpuroi roi` and `gpuroi regions`: from images to regions."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from gpuroi.cli.summary import show
from gpuroi.errors import UsageError

__all__ = ["regions", "roi"]

Connectivity = Literal[6, 18, 26]


def _numbers(values: tuple[float, ...]) -> str:
    """A default as it would be typed."""
    return " ".join(f"{value:g}" for value in values)


def roi(
    bold: list[Path],
    /,
    *,
    conditions: Annotated[list[Path], Parameter(name=("--conditions", "--labels"), consume_multiple=True)],
    contrast: str,
    out: Path,
    fwhm: Annotated[tuple[float, ...], Parameter(consume_multiple=True, show_default=_numbers)] = (6.0,),
    threshold: float = 5.0,
    mask: Path | None = None,
    dilate: int = 1,
    min_region_size: Annotated[float, Parameter(name=("--min-region-size", "--min-size-mm3"))] = 0.0,
    connectivity: Connectivity = 6,
    equal_var: Annotated[bool, Parameter(negative="--welch")] = True,
    tr: float | None = None,
    region_masks: bool = False,
    figures: Annotated[bool, Parameter(negative="--no-figures")] = True,
    device: str = "auto",
    memory_limit: str | None = None,
    overwrite: bool = False,
) -> int:
    """Find the regions that tell two conditions apart, and extract their signals.

    Smooth; t-test the volumes of one condition against those of the other;
    threshold -log10 p; mask; dilate; label; keep regions of a minimum size;
    average over each. Writes an atlas, a region table, the signals, maps and a
    report.

    gpuroi roi bold.nii.gz --conditions labels.tsv --contrast face-house --out roi/

    Parameters
    ----------
    bold
        4-D runs on one grid, or the 3-D images of one run.
    conditions
        For each run its labels, one a volume, or its BIDS events.
    contrast
        The conditions compared, face-house: the first minus the second.
    out
        Folder to write.
    fwhm
        Full width at half maximum of the smoothing in mm: one number, or three for X, Y and Z; 0 for none.
    threshold
        Voxels are kept where -log10 of the two-sided p is at least this.
    mask
        Image, non-zero inside: where regions are looked for, before the dilation.
    dilate
        How many voxels to grow the regions by, over faces.
    min_region_size
        Smallest region kept, in mm3.
    connectivity
        Which voxels make one region: over faces (6), and edges (18), and corners (26).
    equal_var
        Student's test; Welch's does not take the variances for equal.
    tr
        Repetition time in seconds, for events; by default the header's.
    region_masks
        Write an image for each region too.
    figures
        Draw figures, for the report too.
    device
        auto, cpu, cuda, or cuda:N.
    memory_limit
        Bytes for the volumes and the work on them, as 400MB or 8GB.
    overwrite
        Replace earlier results in the folder.

    Returns
    -------
    int
        Exit code.
    """
    from gpuroi.workflows.output import check_output
    from gpuroi.workflows.roi import roi as find_roi

    check_output(out, overwrite=overwrite)
    result = find_roi(
        bold if len(bold) > 1 else bold[0],
        conditions if len(conditions) > 1 else conditions[0],
        contrast,
        fwhm=_one_or_three(fwhm),
        threshold=threshold,
        mask=mask,
        dilate=dilate,
        min_region_size=min_region_size,
        connectivity=connectivity,
        equal_var=equal_var,
        tr=tr,
        device=device,
        memory_limit=memory_limit,
    )
    result.save(out, overwrite=overwrite, region_masks=region_masks, figures=figures)
    counts = result.counts
    shown = ", ".join(f"{name} {n}" for name, n in counts["volumes_per_condition"].items())
    found = f"{counts['regions']}, {counts['voxels_in_regions']} voxels"
    if not counts["voxels_tested"]:
        found = "none: no voxel can be tested; each is missing in a volume compared, or never changes"
    elif not counts["voxels_thresholded"]:
        found = f"none: no voxel reaches -log10 p {threshold:g}"
    elif not counts["voxels_in_mask"]:
        found = f"none: {counts['voxels_thresholded']} voxels reach -log10 p {threshold:g}, but none inside the mask"
    elif not counts["regions"]:
        found = f"none of {min_region_size:g} mm3 or more"
    show(
        [
            ("device", result.device),
            ("volumes", f"{counts['volumes']} ({shown})"),
            ("regions", found),
            ("written", str(out / "report.html")),
        ],
        result.table,
    )
    return 0


def regions(
    img: Path,
    /,
    *,
    out: Path,
    threshold: float | str = "97%",
    two_sided: Annotated[bool, Parameter(negative="--one-sided")] = True,
    min_size_mm3: Annotated[float, Parameter(name=("--min-size-mm3", "--min-region-size"))] = 0.0,
    connectivity: Connectivity = 6,
    mask: Path | None = None,
    seeds: Literal["local-maxima"] | None = None,
    seed_distance_mm: float = 20.0,
    seed_fwhm_mm: float = 6.0,
    figures: Annotated[bool, Parameter(negative="--no-figures")] = True,
    device: str = "auto",
    memory_limit: str | None = None,
    overwrite: bool = False,
) -> int:
    """Extract the connected regions of a statistical map.

    gpuroi regions zstat1.nii.gz --threshold 3.1 --min-size-mm3 200 --out regions/

    Parameters
    ----------
    img
        NIfTI image of a statistic, 3-D.
    out
        Folder to write.
    threshold
        A value, or a percentile such as 97%.
    two_sided
        Positive and negative regions where |x| >= threshold; one-sided: x >= threshold (<=, if it is negative).
    min_size_mm3
        Smallest region kept, in mm3.
    connectivity
        Which voxels make one region: over faces (6), and edges (18), and corners (26).
    mask
        Image, non-zero inside: where regions are looked for, and the percentile is taken.
    seeds
        local-maxima: split regions with several peaks, by a random walker from each.
    seed_distance_mm
        How far along each axis a peak has to be the largest value, in mm.
    seed_fwhm_mm
        Smoothing of the map in which peaks are sought, in mm; 0 for none.
    figures
        Draw figures, for the report too.
    device
        auto, cpu, cuda, or cuda:N.
    memory_limit
        Bytes to work with on the device, as 400MB or 8GB.
    overwrite
        Replace earlier results in the folder.

    Returns
    -------
    int
        Exit code.
    """
    from gpuroi.workflows.output import check_output
    from gpuroi.workflows.regions import regions as find_regions

    check_output(out, overwrite=overwrite)
    result = find_regions(
        img,
        threshold=threshold,
        two_sided=two_sided,
        min_size_mm3=min_size_mm3,
        connectivity=connectivity,
        mask=mask,
        seeds=seeds,
        seed_distance_mm=seed_distance_mm,
        seed_fwhm_mm=seed_fwhm_mm,
        device=device,
        memory_limit=memory_limit,
    )
    result.save(out, overwrite=overwrite, figures=figures)
    found = str(len(result.table))
    if not len(result.table):
        found = f"none of {min_size_mm3:g} mm3 or more" if min_size_mm3 else "none: nothing reaches the threshold"
    facts = [
        ("device", result.device),
        ("threshold", result.settings["rule"]),
        ("regions", found),
        ("written", str(out / "report.html")),
    ]
    show(facts, result.table)
    return 0


def _one_or_three(fwhm: tuple[float, ...]) -> float | tuple[float, float, float]:
    if len(fwhm) == 1:
        return fwhm[0]
    if len(fwhm) != 3:
        raise UsageError(f"--fwhm has {len(fwhm)} numbers", "give one in mm, or three: X, Y and Z")
    return fwhm[0], fwhm[1], fwhm[2]
