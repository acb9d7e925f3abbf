"""The report on a parcellation."""

from __future__ import annotations

from html import escape
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from gpuroi.report.citations import references
from gpuroi.report.document import bullets, count, document, facts, number, ordered, paragraph, table
from gpuroi.report.page import Picture, picture_html, records
from gpuroi.report.parcellation_figures import save_compressed_picture, save_parcels_picture

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["parcellation_page", "parcellation_pictures"]

_NO_PICTURES = "No pictures: they were not asked for, or matplotlib is not installed."
_MOST_ROWS = 200  # in the page; dseg.tsv has them all
_METHODS = {
    "ward": (
        "Ward's hierarchical clustering: neighbours merge, always the two that add least to the sum of squares.",
        "Michel V et al. A supervised clustering approach for fMRI-based inference of brain states. Pattern "
        "Recognition 45, 2012.",
        "10.1016/j.patcog.2011.04.006",
    ),
    "kmeans": (
        "K-means (Lloyd's algorithm from k-means++ centres): series alone count, not where voxels lie.",
        "Lloyd SP. Least squares quantization in PCM. IEEE Transactions on Information Theory 28, 1982.",
        "10.1109/TIT.1982.1056489",
    ),
    "hierarchical_kmeans": (
        "K-means in two levels: large clusters, then small ones within each.",
        "Lloyd SP. Least squares quantization in PCM. IEEE Transactions on Information Theory 28, 1982.",
        "10.1109/TIT.1982.1056489",
    ),
    "rena": (
        "ReNA: each cluster joins its nearest neighbour, all at once, a few times.",
        "Hoyos-Idrobo A et al. Recursive nearest agglomeration (ReNA): fast clustering for approximation of structured "
        "signals. IEEE Transactions on Pattern Analysis and Machine Intelligence 41, 2019.",
        "10.1109/TPAMI.2018.2815524",
    ),
}
_CAVEATS = (
    "Parcels describe these data. To test hypotheses on them, use other data, or parcels made without looking at what "
    "is tested.",
    "The explained variance grows with the number of parcels; compare methods at the same number.",
    "Volumes that follow each other are alike, and so are random halves of a run: agreement between halves is an "
    "upper bound.",
)


def parcellation_pictures(result: Any, folder: Path) -> list[Picture]:
    """Draw the pictures of a result of `gpuroi.parcellate` into a folder.

    Parameters
    ----------
    result : ParcellateResult
    folder : path
        Must exist. Gets `parcels.png` and `compressed.png`.

    Returns
    -------
    list of Picture

    Raises
    ------
    OutputError
        If matplotlib is not installed.
    """
    labels, affine = result.labels, result.like.affine
    found = count(len(result.table), "parcel")
    parcels = save_parcels_picture(
        labels, result.mean_img, affine, folder / "parcels.png", title=f"{found} ({result.settings['method']})"
    )
    pictures = [Picture(parcels, f"Cuts through the mean image with {found} in colour.", "Colours tell parcels apart.")]
    if result.first_volume is None:  # made anew, and the images are no longer there
        return pictures
    share = 100 * result.quality["explained_variance"]
    bands = [
        (f"the first volume, {count(result.counts['voxels_inside'], 'voxel')}", result.first_volume),
        (f"the same volume as the means of {found}", result.compressed(slice(0, 1))[0]),
    ]
    beside = save_compressed_picture(bands, labels > 0, affine, folder / "compressed.png")
    alt = f"The same cuts twice: a volume, and the same volume as the means of {found}."
    text = f"Over all volumes the parcels keep {share:.1f} % of the variance between voxels."
    return [*pictures, Picture(beside, alt, text)]


def parcellation_page(result: Any, pictures: Sequence[Picture] | None = None) -> str:
    """Return the report on a result of `gpuroi.parcellate` as one HTML page.

    Parameters
    ----------
    result : ParcellateResult
    pictures : sequence of Picture, optional
        From `parcellation_pictures`, if they are drawn already; empty for a page without pictures.

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
            return parcellation_page(result, parcellation_pictures(result, Path(folder)))
    settings, rows, counts = result.settings, result.table, result.counts
    asked = (
        f"Which voxels have similar series in {count(counts['volumes'], 'volume')} of "
        f"{count(counts['images'], 'image')}, in {count(len(rows), 'parcel')}?"
    )
    mm3 = rows["mm3"]
    found = (
        f"{count(len(rows), 'parcel')} of {number(float(mm3.min()))} to {number(float(mm3.max()))} mm³ (median "
        f"{number(float(mm3.median()))}). Their means keep {100 * result.quality['explained_variance']:.1f} % of the "
        "variance between voxels."
    )
    shown = f"The first {_MOST_ROWS}; dseg.tsv has all {len(rows)}. " if len(rows) > _MOST_ROWS else ""
    quality = [(name.replace("_", " "), f"{result.quality[name]:.4f}") for name in _measures(result.quality)]
    _, text, doi = _METHODS[settings["method"]]
    link = f'<p>{escape(text)} <a href="https://doi.org/{doi}">doi:{doi}</a></p>'
    return document(
        "Parcellation",
        [
            ("What was asked and found", paragraph(asked) + paragraph(found)),
            ("Where", picture_html(pictures) or paragraph(_NO_PICTURES)),
            ("Quality", facts(quality)),
            ("Parcels", table(rows.head(_MOST_ROWS)) + paragraph(shown + "Centres are in mm: right, front, up.")),
            ("How", ordered(_steps(settings)) + paragraph("Mind:") + bullets(_CAVEATS)),
            *records(result),
            ("References", link + references([], result.device)),
        ],
    )


def _measures(quality: Mapping[str, Any]) -> list[str]:
    return [name for name, value in quality.items() if isinstance(value, float)]


def _steps(settings: Mapping[str, Any]) -> list[str]:
    method, fwhm = settings["method"], settings["fwhm_mm"]
    masked = "Take the voxels inside the mask."
    steps = [masked if settings["mask"] else "Take the voxels that are finite and vary over time in every image."]
    if fwhm:
        width = ", ".join(f"{w:g}" for w in (fwhm if isinstance(fwhm, (list, tuple)) else (fwhm,)))
        steps.append(f"To learn, smooth with a Gaussian, {width} mm full width at half maximum, within the mask.")
    if settings["standardize"]:
        steps.append("To learn, bring each series to mean 0 and standard deviation 1 in each image.")
    steps.append(_METHODS[method][0])
    if method in ("ward", "rena") or settings["split_pieces"]:
        over = {6: "faces", 18: "faces or edges", 26: "faces, edges or corners"}[settings["connectivity"]]
        steps.append(f"Voxels that touch over {over} are neighbours.")
    if settings["split_pieces"]:
        steps.append("Make a parcel of each connected piece.")
    steps.append("Number parcels by their first voxels in C order, from 1.")
    steps.append("Average the images as given, not smoothed, over each parcel, per volume.")
    return steps
