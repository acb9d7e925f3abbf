"""The commands of one step: threshold, smooth, ttest, dilate, label."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from gpuroi.cli.summary import show

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gpuroi.workflows.volumes import VolumesResult

__all__ = ["dilate", "label", "smooth", "threshold", "ttest"]

Connectivity = Literal[6, 18, 26]


def threshold(
    image: Path,
    /,
    *,
    out: Path,
    threshold: Annotated[float | str, Parameter(name=("--threshold", "--cutoff"))],
    two_sided: Annotated[bool, Parameter(negative="--one-sided")] = True,
    cluster_threshold: int = 0,
    min_size_mm3: float = 0.0,
    connectivity: Connectivity = 6,
    mask: Path | None = None,
    device: str = "auto",
    memory_limit: str | None = None,
    overwrite: bool = False,
) -> int:
    """Keep the values of an image that reach a threshold and set all others to 0.

    Parameters
    ----------
    image
        NIfTI image, 3-D or 4-D; volumes are thresholded one by one.
    out
        Image to write; a sidecar .json comes with it.
    threshold
        A value, or a percentile such as 97%.
    two_sided
        Keep |x| at or above the threshold; one-sided keeps x at or above it (at or below it, if it is negative).
    cluster_threshold
        Keep only clusters of at least this many voxels.
    min_size_mm3
        Keep only clusters of at least this many mm3.
    connectivity
        Neighbours of a voxel: faces (6), and edges (18), and corners (26).
    mask
        Image, non-zero inside; what lies outside becomes 0 and counts for no percentile.
    device
        auto, cpu, cuda, or cuda:N.
    memory_limit
        Bytes to work with on the device, as 400MB or 8GB.
    overwrite
        Replace an output that stands already.

    Returns
    -------
    int
        Exit code.
    """
    from gpuroi.workflows.volumes import threshold_image

    result = threshold_image(
        image,
        out,
        threshold=threshold,
        two_sided=two_sided,
        cluster_threshold=cluster_threshold,
        min_size_mm3=min_size_mm3,
        connectivity=connectivity,
        mask=mask,
        device=device,
        memory_limit=memory_limit,
        overwrite=overwrite,
    )
    kept = _voxels(result.counts["voxels_kept"]) or "nothing reaches the threshold"
    return _tell(result, [("threshold", result.counts["rule"]), ("kept", kept)])


def smooth(
    image: Path,
    /,
    *,
    out: Path,
    fwhm: Annotated[list[float], Parameter(consume_multiple=True)],
    mode: Literal["reflect", "nearest", "mirror", "wrap", "constant"] = "reflect",
    mask: Path | None = None,
    device: str = "auto",
    memory_limit: str | None = None,
    overwrite: bool = False,
) -> int:
    """Smooth an image with a Gaussian.

    Parameters
    ----------
    image
        NIfTI image, 3-D or 4-D; volumes are smoothed one by one, in space only.
    out
        Image to write; a sidecar .json comes with it.
    fwhm
        Full width at half maximum in mm: one number, or three for X, Y and Z.
    mode
        What lies beyond the edge of the volume.
    mask
        Image, non-zero inside: voxels inside are averaged with those inside only, and outside is 0.
    device
        auto, cpu, cuda, or cuda:N.
    memory_limit
        Bytes to work with on the device, as 400MB or 8GB.
    overwrite
        Replace an output that stands already.

    Returns
    -------
    int
        Exit code.
    """
    from gpuroi.workflows.volumes import smooth_image

    result = smooth_image(
        image,
        out,
        fwhm=fwhm,
        mode=mode,
        mask=mask,
        device=device,
        memory_limit=memory_limit,
        overwrite=overwrite,
    )
    return _tell(result, [("smoothed", f"{' x '.join(f'{width:g}' for width in fwhm)} mm")])


def ttest(
    images: list[Path],
    /,
    *,
    out: Path,
    conditions: Annotated[
        list[Path] | None, Parameter(name=("--conditions", "--labels"), consume_multiple=True)
    ] = None,
    contrast: str | None = None,
    versus: Annotated[list[Path] | None, Parameter(consume_multiple=True)] = None,
    paired: bool = False,
    popmean: float = 0.0,
    equal_var: Annotated[bool, Parameter(negative="--welch")] = True,
    alternative: Literal["two-sided", "less", "greater"] = "two-sided",
    nan_policy: Literal["propagate", "omit", "raise"] = "propagate",
    mask: Path | None = None,
    tr: float | None = None,
    out_log10p: Path | None = None,
    device: str = "auto",
    memory_limit: str | None = None,
    overwrite: bool = False,
) -> int:
    """Test means voxel by voxel: of two conditions, of two sets of images, or of one set against a number.

    Two conditions of a run, one set of images, two sets:

    gpuroi ttest bold.nii.gz --conditions labels.tsv --contrast a-b --out t.nii.gz
    gpuroi ttest sub-*.nii.gz --out t.nii.gz
    gpuroi ttest a*.nii.gz --versus b*.nii.gz --out t.nii.gz

    Parameters
    ----------
    images
        NIfTI images. With conditions each is a 4-D run; otherwise every volume is one observation.
    out
        Image of t to write; a sidecar .json comes with it.
    conditions
        Labels or events of the volumes, one file a run.
    contrast
        The conditions compared, face-house: the first minus the second.
    versus
        A second set of images, to be subtracted.
    paired
        Take the k-th volume of one condition or set with the k-th of the other.
    popmean
        Mean expected of a single set.
    equal_var
        Student's test; Welch's does not take the variances for equal.
    alternative
        Which side counts.
    nan_policy
        What to do about NaN: "omit" leaves it out, voxel by voxel.
    mask
        Image, non-zero inside; results are 0 outside.
    tr
        Repetition time in seconds, for events; by default the header's.
    out_log10p
        Image of -log10 p to write, a positive number.
    device
        auto, cpu, cuda, or cuda:N.
    memory_limit
        Bytes to work with on the device, as 400MB or 8GB.
    overwrite
        Replace outputs that stand already.

    Returns
    -------
    int
        Exit code.
    """
    from gpuroi.workflows.volumes import ttest_image

    result = ttest_image(
        images,
        out,
        conditions=conditions,
        contrast=contrast,
        versus=versus,
        paired=paired,
        popmean=popmean,
        equal_var=equal_var,
        alternative=alternative,
        nan_policy=nan_policy,
        mask=mask,
        tr=tr,
        out_log10p=out_log10p,
        device=device,
        memory_limit=memory_limit,
        overwrite=overwrite,
    )
    counts = result.counts
    sides = ", ".join(f"{name} {size}" for name, size in counts["observations"].items())
    df = "differs between voxels" if counts["df"] is None else f"{counts['df']:g}"
    facts = [("test", f"{counts['test']}, {alternative}"), ("observations", sides), ("df", df)]
    if counts["voxels_without_test"]:
        facts.append(("NaN", f"{counts['voxels_without_test']} voxels, where the data hold NaN or do not vary"))
    return _tell(result, facts)


def dilate(
    image: Path,
    /,
    *,
    out: Path,
    iterations: int = 1,
    connectivity: Connectivity = 6,
    mask: Path | None = None,
    device: str = "auto",
    memory_limit: str | None = None,
    overwrite: bool = False,
) -> int:
    """Grow a mask by its neighbours.

    Parameters
    ----------
    image
        NIfTI image, 3-D or 4-D; non-zero is inside.
    out
        Image to write, 0 and 1; a sidecar .json comes with it.
    iterations
        How many voxels to grow by; 0 grows until nothing changes.
    connectivity
        Neighbours of a voxel: faces (6), and edges (18), and corners (26).
    mask
        Image; the mask grows only where it is not 0.
    device
        auto, cpu, cuda, or cuda:N.
    memory_limit
        Bytes to work with on the device, as 400MB or 8GB.
    overwrite
        Replace an output that stands already.

    Returns
    -------
    int
        Exit code.
    """
    from gpuroi.workflows.volumes import dilate_image

    result = dilate_image(
        image,
        out,
        iterations=iterations,
        connectivity=connectivity,
        mask=mask,
        device=device,
        memory_limit=memory_limit,
        overwrite=overwrite,
    )
    before, after = result.counts["voxels_before"], result.counts["voxels_after"]
    return _tell(result, [("before", _voxels(before) or "empty"), ("after", _voxels(after) or "empty")])


def label(
    image: Path,
    /,
    *,
    out: Path,
    connectivity: Connectivity = 6,
    device: str = "auto",
    memory_limit: str | None = None,
    overwrite: bool = False,
) -> int:
    """Number the connected components of a mask.

    Parameters
    ----------
    image
        NIfTI image, 3-D or 4-D; non-zero is inside.
    out
        Image of labels to write, 0 outside; a sidecar .json comes with it.
    connectivity
        Neighbours of a voxel: faces (6), and edges (18), and corners (26).
    device
        auto, cpu, cuda, or cuda:N.
    memory_limit
        Bytes to work with on the device, as 400MB or 8GB.
    overwrite
        Replace an output that stands already.

    Returns
    -------
    int
        Exit code.
    """
    from gpuroi.workflows.volumes import label_image

    result = label_image(
        image, out, connectivity=connectivity, device=device, memory_limit=memory_limit, overwrite=overwrite
    )
    found = result.counts["components"]
    return _tell(result, [("found", _counted(found, "components") if any(found) else "none: the mask is empty")])


def _tell(result: VolumesResult, found: Sequence[tuple[str, str]]) -> int:
    facts = [("device", result.device), ("volumes", str(result.n_volumes)), *found]
    show([*facts, *(("written", str(path)) for path in result.paths)])
    return 0


def _voxels(counts: Sequence[int]) -> str:
    """The counts in words; empty if all are 0."""
    return _counted(counts, "voxels") if any(counts) else ""


def _counted(counts: Sequence[int], unit: str) -> str:
    if len(counts) == 1:
        return f"{counts[0]} {unit}"
    return (
        f"{counts[0]} {unit} a volume"
        if min(counts) == max(counts)
        else f"{min(counts)} to {max(counts)} {unit} a volume"
    )
