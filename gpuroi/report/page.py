"""The reports: one HTML page per result, readable offline, on a phone, in the dark and without its pictures."""

from __future__ import annotations

import importlib.metadata
import platform
import re
import shlex
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

import gpuroi
from gpuroi.report.anatomy import anatomy_below
from gpuroi.report.citations import references
from gpuroi.report.document import bullets, count, document, facts, figure, gallery, number, ordered, paragraph, table
from gpuroi.report.map_figures import save_map_picture
from gpuroi.report.roi_figures import save_boxplots, save_regions_picture
from gpuroi.report.viewer import Layer, slice_viewer

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import pandas as pd
    from numpy.typing import NDArray

    from gpuroi.images.read import Image

__all__ = [
    "NO_PICTURES",
    "Picture",
    "background_of",
    "map_name",
    "map_viewer",
    "peaks_of",
    "picture_html",
    "records",
    "regions_page",
    "regions_pictures",
    "roi_page",
    "roi_pictures",
]

_PLOT = re.compile(r"_(cluster-\d+|null-\w+|qq)\.png$")
_MOST_PEAKS = 30  # in the viewer
_MOST_INPUTS = 40  # in the page
_PACKAGES = ("numpy", "scipy", "numba", "nibabel", "pandas", "matplotlib", "cupy-cuda12x", "cupy-cuda13x")
_COORDINATES = "x, y and z are in mm: to the right, to the front and up, in the space of the image."
NO_PICTURES = "No pictures: they were not asked for, or matplotlib is not installed."
_NOTHING_TO_TEST = (
    "No voxel can be tested: each is missing (NaN or infinite) in a volume that is compared, or never changes."
)
_ROI_CAVEATS = (
    "p is per voxel and not corrected for the number of voxels: the threshold selects voxels, it is no inference.",
    "Volumes that follow each other are not independent, so p is smaller than it should be.",
    "The regions were selected with this contrast. To test the same contrast on them again in the same data is "
    "circular: use other runs, or other people.",
)
_REGIONS_CAVEATS = (
    "Regions are where the map passes the threshold. No p-value belongs to them, and nothing is corrected for the "
    "number of voxels.",
)
_BOX_NOTE = (
    "The mean of the smoothed data over each region, one point per volume. A box spans the quartiles, its line is the "
    "median, whiskers reach the last value within 1.5 interquartile ranges. The regions were chosen because the "
    "first two conditions differ in them, so that difference is larger here than it would be in new data."
)


class Picture(NamedTuple):
    """A PNG file, what it shows in words, and what to write below it."""

    path: Path
    alt: str
    caption: str = ""


def roi_pictures(result: Any, folder: Path) -> list[Picture]:
    """Draw the pictures of a result of `gpuroi.roi` into a folder: regions, signed -log10 p, box plots.

    Parameters
    ----------
    result : RoiResult
    folder : path
        Must exist. Gets `regions.png`, `log10p.png` and the files of `save_boxplots`.

    Returns
    -------
    list of Picture

    Raises
    ------
    OutputError
        If matplotlib is not installed.
    """
    first, second = result.settings["first"], result.settings["second"]
    cut = float(result.settings["threshold_log10p"])
    affine, maps = result.like.affine, result.maps
    passed = np.where(maps["in_mask"], _signed_log10p(maps), 0)
    title = f"Regions that tell {first} from {second}"
    regions = save_regions_picture(result.labels, maps["mean"], affine, folder / "regions.png", title=title)
    tested = save_map_picture(
        passed,
        affine,
        folder / "log10p.png",
        background=maps["mean"],
        threshold=cut,
        title=f"-log10 p of {first} against {second}, with the sign of t",
    )
    found = count(len(result.table), "region")
    pictures = [
        Picture(regions, f"Cuts through the mean image with {found} in colour, numbered."),
        Picture(
            tested,
            f"Cuts through the map of -log10 p where it reaches {cut:g}, over the mean image.",
            f"Inside the mask, before the dilation and the smallest size. Orange: {first} above {second}; blue: below.",
        ),
    ]
    for path in save_boxplots(result.signals, folder, conditions=[first, second]):
        shown = path.name.removesuffix("_boxplot.png").replace("-", " ")
        pictures.append(Picture(path, f"Box plot of the signal per condition, {shown}."))
    return pictures


def roi_page(result: Any, pictures: Sequence[Picture] | None = None) -> str:
    """Return the report on a result of `gpuroi.roi` as one HTML page.

    Parameters
    ----------
    result : RoiResult
        Its `labels`, `like`, `table`, `signals`, `maps`, `settings`, `timings`, `counts`, `inputs` and `device` are
        read.
    pictures : sequence of Picture, optional
        From `roi_pictures`, if they are drawn already; empty for a page without pictures.

    Returns
    -------
    str
        HTML with all pictures inside; nothing is loaded from elsewhere.

    Raises
    ------
    OutputError
        If pictures must be drawn and matplotlib is not installed.
    """
    if pictures is None:
        with TemporaryDirectory() as folder:
            return roi_page(result, roi_pictures(result, Path(folder)))
    settings, rows = result.settings, result.table
    first, second = settings["first"], settings["second"]
    plots = [picture for picture in pictures if picture.path.name.endswith("_boxplot.png")]
    brains = [picture for picture in pictures if picture not in plots]
    found = _found(rows, settings) if result.counts["voxels_tested"] else _NOTHING_TO_TEST
    test = "student" if settings["equal_var"] else "welch"
    return document(
        f"Regions of interest: {first} against {second}",
        [
            ("What was asked and found", paragraph(_asked(result)) + paragraph(found)),
            ("Where", picture_html(brains) or paragraph(NO_PICTURES)),
            ("Regions", table(rows) + paragraph(_COORDINATES) if len(rows) else ""),
            ("Signals", paragraph(_BOX_NOTE) + picture_html(plots) if plots else ""),
            ("Slice viewer", slice_viewer([_roi_layer(result)], result.maps["mean"], result.like.affine)),
            ("How", ordered(_roi_steps(settings)) + paragraph("Mind:") + bullets(_ROI_CAVEATS)),
            *records(result),
            ("References", references([test, "circular", "label"], result.device)),
        ],
    )


def regions_pictures(result: Any, folder: Path) -> list[Picture]:
    """Draw the pictures of a result of `gpuroi.regions` into a folder: the regions, and the map inside them.

    Parameters
    ----------
    result : RegionsResult
    folder : path
        Must exist. Gets `regions.png` and `map.png`.

    Returns
    -------
    list of Picture

    Raises
    ------
    OutputError
        If matplotlib is not installed.
    """
    affine, (background, below) = result.like.affine, background_of(result.like)
    title = f"{map_name(result)}: {result.settings['rule']}"
    regions = save_regions_picture(result.labels, background, affine, folder / "regions.png", title=title)
    inside = save_map_picture(
        result.thresholded,
        affine,
        folder / "map.png",
        background=background,
        threshold=abs(float(result.settings["cutoff"])),
        title="The map inside the regions",
    )
    found = count(len(result.table), "region")
    return [
        Picture(regions, f"Cuts through the map with {found} in colour, numbered.", below),
        Picture(inside, f"Cuts through the values of the map inside {found}.", "Orange: positive; blue: negative."),
    ]


def regions_page(result: Any, pictures: Sequence[Picture] | None = None) -> str:
    """Return the report on a result of `gpuroi.regions` as one HTML page.

    Parameters
    ----------
    result : RegionsResult
        Its `labels`, `table`, `thresholded`, `settings`, `timings`, `counts`, `inputs`, `device` and `like` are read.
    pictures : sequence of Picture, optional
        From `regions_pictures`, if they are drawn already; empty for a page without pictures.

    Returns
    -------
    str
        HTML with all pictures inside; nothing is loaded from elsewhere.

    Raises
    ------
    OutputError
        If pictures must be drawn and matplotlib is not installed.
    """
    if pictures is None:
        with TemporaryDirectory() as folder:
            return regions_page(result, regions_pictures(result, Path(folder)))
    settings, rows = result.settings, result.table
    asked = f"Where does the map {map_name(result)} pass the threshold, {settings['rule']}, in one piece?"
    return document(
        "Regions of a statistical map",
        [
            ("What was asked and found", paragraph(asked) + paragraph(_found(rows, settings))),
            ("Where", picture_html(pictures) or paragraph(NO_PICTURES)),
            ("Regions", table(rows) + paragraph(_COORDINATES) if len(rows) else ""),
            ("Slice viewer", map_viewer(result.like, abs(float(settings["cutoff"])), peaks_of(rows, "region"))),
            ("How", ordered(_regions_steps(settings)) + paragraph("Mind:") + bullets(_REGIONS_CAVEATS)),
            *records(result),
            ("References", references(["label"], result.device)),
        ],
    )


def map_name(result: Any) -> str:
    """Return the name of the first input."""
    one = result.inputs[0]
    return Path(one["path"]).name if "path" in one else f"{one['in_memory']} in memory"


def map_viewer(image: Image, cut: float, peaks: Mapping[str, Any]) -> str:
    """Return a slice viewer of one map."""
    layer = Layer("the map", image.read_one(), "value", cut, True, peaks)
    return slice_viewer([layer], background_of(image)[0], image.affine)


def background_of(image: Image) -> tuple[NDArray[Any], str]:
    """Return what to draw in grey below a map, and what it is: the MNI template, or where the map is not 0."""
    stat = image.read_one()
    background, text = anatomy_below(image, np.asarray(np.isfinite(stat) & (stat != 0)))
    return background, text or "Grey: where the map is not 0."


def peaks_of(rows: pd.DataFrame, noun: str) -> dict[str, tuple[float, float, float]]:
    """Return the peaks of a table of regions, in mm, by name."""
    shown = rows.head(_MOST_PEAKS)
    places = zip(shown["peak_x"], shown["peak_y"], shown["peak_z"], strict=True)
    return {f"{noun} {i}": place for i, place in zip(shown["id"], places, strict=True)}


def _roi_layer(result: Any) -> Layer:
    cut, name = float(result.settings["threshold_log10p"]), "-log10 p with the sign of t"
    return Layer(name, _signed_log10p(result.maps), "-log10 p", cut, True, peaks_of(result.table, "region"))


def _signed_log10p(maps: Mapping[str, Any]) -> NDArray[Any]:
    return np.asarray(np.copysign(maps["log10p"], maps["t"]))


def _asked(result: Any) -> str:
    first, second = result.settings["first"], result.settings["second"]
    volumes = result.signals["condition"].value_counts()
    runs = count(result.signals["run"].nunique(), "run")
    return (
        f"Which voxels tell {first} ({count(volumes.get(first, 0), 'volume')}) from {second} "
        f"({count(volumes.get(second, 0), 'volume')}) in {runs}, and what is the signal there?"
    )


def _found(rows: pd.DataFrame, settings: Mapping[str, Any]) -> str:
    if not len(rows):
        return "Nothing passed the threshold, the mask and the smallest size: there is no region."
    mm3 = rows["mm3"].to_numpy()
    largest = int(mm3.argmax())
    text = (
        f"{count(len(rows), 'region')}, {number(mm3.sum())} mm³ in all. "
        f"The largest is region {rows['id'].iloc[largest]}, {number(mm3[largest])} mm³."
    )
    if "peak_t" in rows:
        above, below = int((rows["peak_t"] > 0).sum()), int((rows["peak_t"] < 0).sum())
        text += f" At its peak, {settings['first']} is above {settings['second']} in {above} of them, below in {below}."
    return text


def _roi_steps(settings: Mapping[str, Any]) -> list[str]:
    fwhm = np.atleast_1d(settings["fwhm_mm"])
    width = ", ".join(f"{w:g}" for w in fwhm)
    test = "Student's t-test (equal variances)" if settings["equal_var"] else "Welch's t-test (unequal variances)"
    cut, dilate, smallest = settings["threshold_log10p"], settings["dilate"], settings["min_region_size_mm3"]
    return [
        f"Smooth each volume with a Gaussian, {width} mm full width at half maximum."
        if fwhm.any()
        else "No smoothing.",
        f"Per voxel, {test} of the volumes of {settings['first']} against those of {settings['second']}.",
        f"Keep voxels where -log10 of the two-sided p is {cut:g} or more, whatever the sign of t.",
        "Keep what lies inside the mask." if settings["mask"] else "No mask: the whole image counts.",
        f"Dilate by the 6 face neighbours, {count(dilate, 'step')}." if dilate else "No dilation.",
        _connected(settings["connectivity"]) + " They are numbered by their first voxel in C order.",
        f"Drop regions smaller than {smallest:g} mm³." if smallest else "Keep regions of any size.",
        "Average the smoothed data over each region, per volume.",
    ]


def _regions_steps(settings: Mapping[str, Any]) -> list[str]:
    smallest, within = settings["min_size_mm3"], "inside the mask" if settings["mask"] else "of the whole image"
    return [
        f"Keep voxels {within} where {settings['rule']}.",
        _connected(settings["connectivity"]) + " Positive and negative voxels never make one region; positive ones "
        "are numbered first, by their first voxel in C order.",
        *_split_steps(settings),
        f"Drop regions smaller than {smallest:g} mm³." if smallest else "Keep regions of any size.",
    ]


def _split_steps(settings: Mapping[str, Any]) -> list[str]:
    if not settings.get("seeds"):
        return []
    return [
        f"Smooth |map| inside the regions (FWHM {settings['seed_fwhm_mm']:g} mm) and find local maxima: the largest "
        f"value within {settings['seed_distance_mm']:g} mm along each axis. A region with several is split by a random "
        "walker: each voxel goes to the maximum that a walk from it, which avoids steps in value, most likely meets "
        "first."
    ]


def _connected(connectivity: int) -> str:
    over = {6: "faces", 18: "faces or edges", 26: "faces, edges or corners"}[connectivity]
    return f"Voxels that touch over {over} are one region."


def picture_html(pictures: Sequence[Picture]) -> str:
    """Plots side by side, brains below each other."""
    if not pictures:
        return ""
    single = all(picture.path.name.startswith("region-") or _PLOT.search(picture.path.name) for picture in pictures)
    html = [figure(picture.path, picture.alt, picture.caption, wide=not single) for picture in pictures]
    return gallery(html) if single else "".join(html)


def records(result: Any) -> list[tuple[str, str]]:
    """What every result carries: settings, counts, inputs, timings, versions and, if it is known, the command."""
    inputs = [(one.get("path") or f"{one['in_memory']} in memory", _input_text(one)) for one in result.inputs]
    if len(inputs) > _MOST_INPUTS:
        inputs = [
            *inputs[:_MOST_INPUTS],
            ("further files", f"{len(result.inputs) - _MOST_INPUTS}: see provenance.json"),
        ]
    timings = [(stage, f"{seconds:.3f} s") for stage, seconds in result.timings.items()]
    command = getattr(result, "command", None)
    said = [("command", shlex.join(command))] if command else []
    return [
        ("Settings", facts([*said, *_spaced(result.settings)])),
        ("Counts", facts(_spaced(result.counts))),
        ("Inputs", facts(inputs)),
        ("Time", facts([("device", result.device), *timings])),
        ("Versions", facts(getattr(result, "versions", None) or _versions())),
    ]


def _spaced(record: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Names of ours as words; names of files and conditions stay as they are."""
    return [(name.replace("_", " "), value) for name, value in record.items()]


def _input_text(one: Mapping[str, Any]) -> str:
    if "sha256" in one:
        return f"{one['bytes']:,} bytes, SHA-256 {one['sha256']}"
    return f"shape {tuple(one['shape'])}"


def _versions() -> list[tuple[str, str]]:
    found = [("gpuroi", gpuroi.__version__), ("python", platform.python_version())]
    for package in _PACKAGES:
        try:
            found.append((package, importlib.metadata.version(package)))
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
