"""Data to try everything on: one run with planted regions, and a small cohort with a planted group effect.

Nothing is downloaded. The anatomy is a drawing (ellipsoids and noise), the numbers are random, the effects are known.
"""

from __future__ import annotations

import json
from itertools import permutations
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from gpuroi.errors import DataError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

__all__ = ["demo", "motor_map_path"]

_SHAPE = (42, 52, 40)
_ZOOM_MM = 3.5
_ORIGIN_MM = (-71.75, -108.5, -63.0)  # the middle of the grid lies on x = 0, as in MNI space
_TR_S = 2.5
_CONDITIONS = ("face", "house", "object")
# A chunk: 2 volumes of rest, then three blocks of 6 volumes, each with rest behind it: 24 volumes, six chunks.
_REST_BEFORE, _BLOCK, _REST_BETWEEN, _REST_AFTER = 2, 6, 1, 2
_SCL_SLOPE = 0.5  # the run is stored as int16; one step is half a unit

# Planted regions of the run: centre (mm), radius (mm), response in per cent to face, house, object.
_PLANTED = (
    ("right face region", (43.0, -54.0, -17.0), 9.5, (4.0, 0.6, 1.2)),
    ("left face region", (-41.0, -54.0, -17.0), 9.0, (3.8, 0.6, 1.2)),
    ("right house region", (22.0, -34.0, -4.0), 9.0, (0.6, 4.0, 1.2)),
    ("left house region", (-23.0, -36.0, -5.0), 9.0, (0.6, 3.8, 1.2)),
)

# Seeds of the atlas in the right hemisphere (mm); the left one is the mirror image.
_ATLAS_SEEDS = (
    ("Frontal Pole", (24.0, 54.0, 6.0)),
    ("Superior Frontal", (16.0, 24.0, 52.0)),
    ("Inferior Frontal", (46.0, 24.0, 14.0)),
    ("Precentral", (38.0, -8.0, 50.0)),
    ("Insula", (38.0, 4.0, 0.0)),
    ("Temporal Pole", (42.0, 10.0, -30.0)),
    ("Middle Temporal", (56.0, -26.0, -8.0)),
    ("Fusiform", (38.0, -50.0, -18.0)),
    ("Superior Parietal", (24.0, -54.0, 56.0)),
    ("Angular", (46.0, -58.0, 30.0)),
    ("Precuneus", (10.0, -58.0, 34.0)),
    ("Occipital Pole", (14.0, -92.0, 4.0)),
    ("Thalamus", (12.0, -16.0, 8.0)),
    ("Cerebellum", (24.0, -64.0, -40.0)),
)
_GROUP_EFFECT = ("Right Insula", 11.0, 2.4)  # patients above controls: parcel, radius mm, shift in SD
_AGE_EFFECT = ("Left Precuneus", 11.0, -0.06)  # falls with age: parcel, radius mm, SD a year


class _Brain(NamedTuple):
    mask: NDArray[np.bool_]  # (X, Y, Z)
    image: NDArray[np.float32]  # (X, Y, Z), arbitrary units, 0 outside
    affine: NDArray[np.float64]  # (4, 4), voxel -> mm, RAS+
    mm: NDArray[np.float64]  # (3, X, Y, Z), centre of each voxel


def demo(folder: str | Path, *, n_subjects: int = 20, seed: int = 0, overwrite: bool = False) -> list[Path]:
    """Write a demonstration data set: a 4-D run with planted regions and a cohort of maps with a planted group effect.

    Parameters
    ----------
    folder : path
        Where to write. It appears whole or not at all.
    n_subjects : int, default 20
        Size of the cohort, at least 4; every second one is a patient. Subject k is the same for any `n_subjects`.
    seed : int, default 0
        The same seed gives the same bytes.
    overwrite : bool, default False
        Replace a folder that stands already, with everything in it.

    Returns
    -------
    list of Path
        The files, sorted. The run: `bold.nii.gz` (42x52x40 voxels of 3.5 mm, 144 volumes, int16 with a slope),
        `labels.tsv` (a row per volume), `events.tsv` (seconds), `mask.nii.gz` and `truth.nii.gz` (the planted regions,
        1 and 2 for faces, 3 and 4 for houses). The cohort: `participants.tsv` (one age is n/a), `maps/` (a float32 map
        per subject), `cohort_truth.nii.gz` (1 group, 2 age) and `atlas_dseg.nii.gz` with its names. And `README.md`.

    Raises
    ------
    UsageError
        If `n_subjects` or `seed` is out of range.
    OutputError
        If the folder stands and `overwrite` is False, or cannot be written.

    Notes
    -----
    The run is `image * (1 + response + drift + noise)`: responses are the blocks convolved with a double-gamma
    haemodynamic response, so they come about 5 s after the label; the noise is smooth in space and autoregressive of
    order one in time.

    Examples
    --------
    >>> import tempfile
    >>> from gpuroi import demo
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     files = demo(f"{folder}/demo", n_subjects=4)
    >>> [file.name for file in files][-2:]
    ['participants.tsv', 'truth.nii.gz']
    """
    from gpuroi.images.write import staged_folder

    if n_subjects < 4:
        raise UsageError(f"n_subjects is {n_subjects}, must be at least 4: two patients and two controls")
    if not 0 <= seed < 2**63:
        raise UsageError(f"seed is {seed}, must be from 0 to 2**63 - 1")
    folder = Path(folder)
    with staged_folder(folder, overwrite=overwrite) as staged:
        brain = _brain(seed)
        _write_run(staged, brain, seed)
        _write_cohort(staged, brain, n_subjects, seed)
        _write_texts(staged, n_subjects, seed)
        names = sorted(str(path.relative_to(staged)) for path in staged.rglob("*") if path.is_file())
    return [folder / name for name in names]


def motor_map_path() -> Path:
    """Return the path of the motor t-map that the nilearn package carries (NeuroVault image 10426, left against right).

    Returns
    -------
    Path
        A real 3-D statistical map, 53x63x46 voxels of 3 mm.

    Raises
    ------
    DataError
        If nilearn is not installed, or carries no such file.
    """
    from importlib.util import find_spec

    spec = find_spec("nilearn")
    if spec is None or spec.origin is None:
        raise DataError("the motor map comes with nilearn, which is not installed", "pip install 'gpuroi[report]'")
    home = Path(spec.origin).parent
    found = sorted(home.rglob("image_10426.nii.gz"))
    if not found:
        raise DataError(f"{home}: no image_10426.nii.gz in this release of nilearn", "pip install 'nilearn>=0.13'")
    return found[0]


def _random(seed: int, stream: int) -> np.random.Generator:
    """Independent numbers for each part of the data: 0 anatomy, 1 run, 2 covariates, 10 + k subject k."""
    return np.random.Generator(np.random.Philox(key=seed, counter=[0, 0, 0, stream]))


def _smooth_noise(random: np.random.Generator, fwhm_mm: float) -> NDArray[np.float32]:
    """Gaussian noise (X, Y, Z) of standard deviation 1, smooth in space."""
    from scipy.ndimage import gaussian_filter

    noise = random.standard_normal(_SHAPE, dtype=np.float32)
    noise = gaussian_filter(noise, fwhm_mm / _ZOOM_MM / 2.3548, mode="wrap")
    return np.asarray(noise / noise.std(dtype=np.float64), dtype=np.float32)


def _brain(seed: int) -> _Brain:
    """Draw a brain: hemispheres, temporal lobes, cerebellum and stem; folded cortex, white matter, ventricles."""
    from scipy.ndimage import distance_transform_edt, gaussian_filter

    affine = np.diag([_ZOOM_MM, _ZOOM_MM, _ZOOM_MM, 1.0])
    affine[:3, 3] = _ORIGIN_MM
    mm = _ZOOM_MM * np.indices(_SHAPE) + np.reshape(_ORIGIN_MM, (3, 1, 1, 1))
    x, y, z = np.abs(mm[0]), mm[1], mm[2]  # folded over x = 0: both hemispheres are drawn at once

    def ellipsoid(centre: tuple[float, float, float], radii: tuple[float, float, float]) -> NDArray[np.bool_]:
        axes = zip((x, y, z), centre, radii, strict=True)
        return np.asarray(sum(((axis - c) / r) ** 2 for axis, c, r in axes) < 1)

    cerebrum = ellipsoid((6, -18, 14), (62, 86, 58)) & (z > -22 + 0.12 * y) & ((y > -40) | (z > -24))
    temporal = ellipsoid((46, -16, -18), (20, 42, 20))
    cerebellum = ellipsoid((16, -64, -38), (34, 30, 21))
    stem = ellipsoid((0, -28, -44), (11, 13, 30))
    mask = cerebrum | temporal | cerebellum | stem

    depth_mm = distance_transform_edt(mask, sampling=_ZOOM_MM)
    random = _random(seed, 0)
    folds, fluid = _smooth_noise(random, fwhm_mm=9.0), _smooth_noise(random, fwhm_mm=8.0)
    image = np.where(depth_mm + 7 * folds < 13, 1.0, 0.7)  # grey matter is brighter than white in an EPI
    image[depth_mm + 7 * fluid < 3] = 1.3  # between the folds
    image[(x < 2) & cerebrum & (z > 10) & (depth_mm < 22 + 4 * fluid)] = 1.25  # between the hemispheres
    image[ellipsoid((9, -12, 16), (5, 28, 10))] = 1.35  # ventricles
    image[ellipsoid((14, -14, 4), (9, 14, 9))] = 0.95  # thalamus
    image = gaussian_filter(np.where(mask, image, 0.0), 0.45)
    shading = 1 + 0.10 * (mm[1] + 18) / 86 - 0.08 * (mm[2] - 10) / 60  # as of a receive coil
    return _Brain(mask, (4000 * image * shading).astype(np.float32), affine, mm)


def _ball(brain: _Brain, centre_mm: tuple[float, float, float], radius_mm: float) -> NDArray[np.bool_]:
    distance2 = np.sum((brain.mm - np.reshape(centre_mm, (3, 1, 1, 1))) ** 2, axis=0)
    return np.asarray((distance2 <= radius_mm**2) & brain.mask)


def _blocks() -> list[tuple[str, int]]:
    """Condition and chunk of each volume: every order of the three conditions occurs once."""
    rows: list[tuple[str, int]] = []
    for chunk, order in enumerate(permutations(_CONDITIONS)):
        labels = ["rest"] * _REST_BEFORE
        for condition in order:
            labels += [condition] * _BLOCK + ["rest"] * _REST_BETWEEN
        rows += [(label, chunk) for label in labels + ["rest"] * (_REST_AFTER - _REST_BETWEEN)]
    return rows


def _responses(labels: list[str]) -> NDArray[np.float32]:
    """Response (n, 3) of each volume to each condition, 1 on the plateau: boxcar convolved with a double gamma."""
    oversampling = 10
    t = np.arange(0, 32, _TR_S / oversampling)
    hrf = t**5 * np.exp(-t) / 120 - t**15 * np.exp(-t) / 1.307674368e12 / 6  # gamma densities of shape 6 and 16
    boxcars = np.repeat([[label == c for c in _CONDITIONS] for label in labels], oversampling, axis=0)  # (10 n, 3)
    fine = [np.convolve(boxcar, hrf / hrf.sum())[: len(boxcars)] for boxcar in boxcars.T.astype(np.float64)]
    middle = np.transpose(fine)[oversampling // 2 :: oversampling]  # in the middle of each volume
    return middle.astype(np.float32)


def _write_run(folder: Path, brain: _Brain, seed: int) -> None:
    rows = _blocks()
    labels = [label for label, _ in rows]
    n = len(rows)
    responses = _responses(labels)

    truth = np.zeros(_SHAPE, np.int32)
    weights = np.zeros((len(_CONDITIONS), *_SHAPE), np.float32)  # response of each voxel to each condition
    for number, (_, centre, radius, per_cent) in enumerate(_PLANTED, 1):
        inside = _ball(brain, centre, radius)
        truth[inside] = number
        weights[:, inside] = np.reshape(per_cent, (-1, 1)) / np.float32(100)

    random = _random(seed, 1)
    slope_map, wave_map = (_smooth_noise(random, fwhm_mm=40.0) for _ in range(2))
    raw = np.empty((*_SHAPE, n), np.int16, order="F")
    noise = np.zeros(_SHAPE, np.float32)
    for volume in range(n):
        # Order one in time (0.3), standard deviation 1 % in every volume from the first on.
        fresh = _smooth_noise(random, fwhm_mm=6.0)
        noise = fresh if volume == 0 else 0.3 * noise + np.float32(np.sqrt(1 - 0.3**2)) * fresh
        time = volume / (n - 1) - 0.5
        drift = 0.006 * time * slope_map + 0.003 * np.cos(3 * np.pi * time) * wave_map
        change = np.tensordot(responses[volume], weights, 1) + drift + 0.010 * noise
        background = np.abs(random.standard_normal(_SHAPE, dtype=np.float32)) * 12
        signal = np.where(brain.image > 0, brain.image * (1 + change), 0) + background
        raw[..., volume] = np.rint(signal / _SCL_SLOPE)

    _save_scaled(raw, brain.affine, folder / "bold.nii.gz")
    _save(brain.mask.astype(np.uint8), brain.affine, folder / "mask.nii.gz")
    _save(truth, brain.affine, folder / "truth.nii.gz")
    _write_table(folder / "labels.tsv", ("labels", "chunks"), rows)
    _write_table(folder / "events.tsv", ("onset", "duration", "trial_type"), list(_events(labels)))


def _events(labels: list[str]) -> Iterator[tuple[str, str, str]]:
    start = 0
    for volume in range(1, len(labels) + 1):
        if volume == len(labels) or labels[volume] != labels[start]:
            if labels[start] != "rest":
                yield f"{start * _TR_S:.1f}", f"{(volume - start) * _TR_S:.1f}", labels[start]
            start = volume


def _write_cohort(folder: Path, brain: _Brain, n_subjects: int, seed: int) -> None:
    from scipy.ndimage import gaussian_filter

    atlas, names = _atlas(brain)
    centres = dict(zip(names, _atlas_centres(), strict=True))
    truth = np.zeros(_SHAPE, np.int32)
    effects = []
    for number, (parcel, radius, size) in enumerate((_GROUP_EFFECT, _AGE_EFFECT), 1):
        inside = _ball(brain, centres[parcel], radius)
        truth[inside] = number
        effects.append(size * gaussian_filter(inside.astype(np.float64), 0.7))

    (folder / "maps").mkdir()
    width = max(2, len(str(n_subjects)))
    without_age = (2 * n_subjects) // 3
    rows = []
    for k in range(n_subjects):
        random = _random(seed, 10 + k)
        group = "patient" if k % 2 else "control"
        age = int(random.integers(20, 71))
        sex = "F" if random.random() < 0.5 else "M"
        between = _smooth_noise(random, fwhm_mm=7.0)
        data = between + effects[0] * (group == "patient") + effects[1] * (age - 45)
        name = f"sub-{k + 1:0{width}d}"
        path = f"maps/{name}_task-demo_stat-effect_statmap.nii.gz"
        _save(np.where(brain.mask, data, 0).astype(np.float32), brain.affine, folder / path)
        rows.append((name, path, group, "n/a" if k == without_age else str(age), sex))

    _write_table(folder / "participants.tsv", ("participant_id", "map", "group", "age", "sex"), rows)
    _save(atlas, brain.affine, folder / "atlas_dseg.nii.gz")
    _write_table(folder / "atlas_dseg.tsv", ("index", "name"), list(enumerate(names, 1)))
    _save(truth, brain.affine, folder / "cohort_truth.nii.gz")


def _atlas_centres() -> list[tuple[float, float, float]]:
    right = [centre for _, centre in _ATLAS_SEEDS]
    return [(-x, y, z) for x, y, z in right] + right


def _atlas(brain: _Brain) -> tuple[NDArray[np.int32], list[str]]:
    """Give every voxel of the mask to the nearest seed of its own hemisphere: left 1 to 14, right 15 to 28."""
    names = [f"{side} {name}" for side in ("Left", "Right") for name, _ in _ATLAS_SEEDS]
    right = np.asarray([centre for _, centre in _ATLAS_SEEDS])
    voxels = brain.mm[:, brain.mask].T  # (v, 3)
    folded = np.abs(voxels * [1, 0, 0]) + voxels * [0, 1, 1]
    distance2 = ((folded[:, None, :] - right) ** 2).sum(-1)  # (v, 14)
    labels = np.zeros(_SHAPE, np.int32)
    labels[brain.mask] = distance2.argmin(axis=1) + 1 + len(right) * (voxels[:, 0] > 0)
    return labels, names


def _save(data: NDArray[Any], affine: NDArray[np.float64], path: Path) -> None:
    from gpuroi.images.write import save_image

    save_image(path, data, affine)


def _save_scaled(raw: NDArray[np.int16], affine: NDArray[np.float64], path: Path) -> None:
    """Write the run as scanners do: integers with a slope, millimetres and seconds in the header."""
    from nibabel.nifti1 import Nifti1Image

    image_class: Any = Nifti1Image
    img = image_class(raw, affine)
    img.header.set_slope_inter(_SCL_SLOPE, 0)
    img.header.set_zooms((_ZOOM_MM, _ZOOM_MM, _ZOOM_MM, _TR_S))
    img.header.set_xyzt_units("mm", "sec")
    img.to_filename(path)


def _write_table(path: Path, columns: tuple[str, ...], rows: list[tuple[Any, ...]]) -> None:
    lines = ["\t".join(map(str, row)) for row in (columns, *rows)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8", newline="\n")


def _write_texts(folder: Path, n_subjects: int, seed: int) -> None:
    import gpuroi

    description = {
        "Name": "gpuroi demonstration data",
        "BIDSVersion": "1.10.0",
        "DatasetType": "derivative",
        "License": "CC0",
        "GeneratedBy": [
            {
                "Name": "gpuroi",
                "Version": gpuroi.__version__,
                "Description": f"gpuroi demo --n-subjects {n_subjects} --seed {seed}",
            }
        ],
    }
    text = json.dumps(description, indent=2) + "\n"
    (folder / "dataset_description.json").write_text(text, encoding="utf-8", newline="\n")
    (folder / "README.md").write_text(_readme(n_subjects, seed), encoding="utf-8", newline="\n")


def _readme(n_subjects: int, seed: int) -> str:
    planted = "\n".join(
        f"| {number} | {name} | {', '.join(f'{c:g}' for c in centre)} | {radius:g} | "
        f"{' / '.join(f'{value:g}' for value in per_cent)} |"
        for number, (name, centre, radius, per_cent) in enumerate(_PLANTED, 1)
    )
    return f"""# Demonstration data

Generated by `gpuroi demo --n-subjects {n_subjects} --seed {seed}`. Nobody was scanned: the anatomy is a drawing, the
numbers are random, and the effects are planted.

## One run: `bold.nii.gz`

144 volumes of 42x52x40 voxels of 3.5 mm, one every {_TR_S} s, int16 with a slope. `labels.tsv` has the condition and
the chunk of each volume, `events.tsv` the same as onsets in seconds. `truth.nii.gz` has the planted regions:

| value | region | centre (mm) | radius (mm) | response to face / house / object (%) |
|---|---|---|---|---|
{planted}

    gpuroi roi bold.nii.gz --conditions labels.tsv --contrast face-house --mask mask.nii.gz \\
        --min-region-size 800 --out roi

## A cohort: `participants.tsv`

{n_subjects} subjects with one map each under `maps/`; every second one is a patient, and one age is missing (n/a).
`cohort_truth.nii.gz` has what was planted: 1, patients above controls by {_GROUP_EFFECT[2]} standard deviations
({_GROUP_EFFECT[0]}); 2, values that fall with age, by {-_AGE_EFFECT[2]} standard deviations a year ({_AGE_EFFECT[0]}).
`atlas_dseg.nii.gz` has 28 parcels, named in `atlas_dseg.tsv`.

Patients have even numbers, so a two-sample t-test of the groups, and the regions that it shows, are:

    gpuroi ttest maps/sub-*[02468]_*.nii.gz --versus maps/sub-*[13579]_*.nii.gz --mask mask.nii.gz --out group_t.nii.gz
    gpuroi regions group_t.nii.gz --threshold 4 --mask mask.nii.gz --min-size-mm3 800 --out group

The groups beside age, with clusters corrected by permutations, and a report:

    gpuroi check participants.tsv --formula 'map ~ group + age' --mask mask.nii.gz
    gpuroi screen participants.tsv --formula 'map ~ group + age' --mask mask.nii.gz --atlas atlas_dseg.nii.gz \\
        --cluster-p 0.001 --out screening
"""
