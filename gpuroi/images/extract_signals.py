"""One number per region and image: mean, median, sum, standard deviation, minimum, maximum."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from gpuroi.backends import get_backend
from gpuroi.backends.memory import map_chunks, parse_bytes
from gpuroi.errors import DataError, UsageError

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

    from gpuroi.backends.base import Array, Backend
    from gpuroi.images.atlas_labels import Atlas
    from gpuroi.images.read import Image

__all__ = ["STATISTICS", "column_names", "extract", "label_ids"]

Statistic = Literal["mean", "median", "sum", "std", "min", "max"]
STATISTICS = ("mean", "median", "sum", "std", "min", "max")

_WORKING_BYTES = 1 << 30  # unless told otherwise: as fast as more
_BYTES_A_VALUE = 8  # beside the volume: which values are finite, and a copy without the others
_BYTES_A_DEVIATION = 24
_LOOK_UP = 1 << 20  # ids below this are looked up in a table
_BYTES_A_SORTED_VALUE = 40  # values, their order, and the sort itself


def extract(
    imgs: Any,
    labels: Any,
    *,
    statistics: Statistic | Sequence[Statistic] = ("mean",),
    names: Any = None,
    mask: Any = None,
    missing: Literal["omit", "propagate"] = "omit",
    device: str = "auto",
    memory_limit: int | str | None = None,
) -> pd.DataFrame:
    """Summarise the values of images over the regions of an atlas.

    Parameters
    ----------
    imgs : path, pattern, image, or list of these
        3-D or 4-D; every volume is one row.
    labels : path or image
        Whole numbers of any width from 0 (outside) to 2147483647, with gaps or without, on the grid of the images.
    statistics : {"mean", "median", "sum", "std", "min", "max"} or sequence of these
        "std" divides by the number of voxels.
    names : path, DataFrame, mapping or LabelNames, optional
        Look-up table of the labels, as `gpuroi.images.read_label_names` takes it. None: the table beside the label
        image, `atlas_dseg.tsv` beside `atlas_dseg.nii.gz`, if there is one.
    mask : path or image, optional
        Voxels outside are left out of every region.
    missing : {"omit", "propagate"}
        What to do about NaN and infinite values: "omit" leaves these voxels out, volume by volume (n/a where none is
        left); "propagate" computes with them.
    device : {"auto", "cpu", "cuda", "cuda:N"}
    memory_limit : int or str, optional
        Bytes to work with, such as "2GB"; 1 GiB by default. At least one volume is read.

    Returns
    -------
    pandas.DataFrame
        One row a volume: `image` (its name), `volume` (from 0), then float64 columns: one for each label, in the order
        of the look-up table, then those that are not in it, ascending, as "label 17". Of several statistics each has
        its column, "Insula mean". A label without a voxel has its column all the same, NaN (n/a). `attrs["regions"]`
        lists for each column `column`, `label`, `name`, `statistic` and `voxels`; `attrs["device"]` says where it ran.

    Raises
    ------
    UsageError
        An unknown statistic, or one asked for twice.
    DataError
        An image that cannot be used; labels that are not whole numbers, or 0 everywhere.
    GridError
        Images or labels on different grids, naming all that differ.
    DeviceError
        If the device asked for cannot be used.

    Notes
    -----
    Sums are taken in float64 in a fixed order, the standard deviation in two passes. Volumes are read as they are
    needed: memory does not grow with their number. nilearn's `NiftiLabelsMasker` counts NaN as 0, and its columns
    leave out labels that are empty.

    Examples
    --------
    >>> import nibabel
    >>> atlas = nibabel.Nifti1Image(np.array([[[0, 7, 7, 400]]], np.int16), np.eye(4))
    >>> values = nibabel.Nifti1Image(np.array([[[9.0, 1.0, 3.0, np.nan]]]), np.eye(4))
    >>> table = extract(values, atlas, names={7: "Insula", 8: "Putamen"}, device="cpu")
    >>> table.iloc[:, 1:]
       volume  Insula  Putamen  label 400
    0       0     2.0      NaN        NaN
    """
    import pandas as pd

    from gpuroi.images.atlas_labels import read_atlas
    from gpuroi.images.grid import check_same_grid
    from gpuroi.images.masks import read_mask
    from gpuroi.images.read import open_images

    wanted = _statistics(statistics)
    if missing not in ("omit", "propagate"):
        raise UsageError(f'missing is "{missing}"', 'use "omit" or "propagate"')
    limit = _WORKING_BYTES if memory_limit is None else parse_bytes(memory_limit)
    images = open_images(imgs)
    atlas = read_atlas(labels, names)
    check_same_grid([*images[1:], atlas], reference=images[0])
    regions = atlas.labels if mask is None else np.where(read_mask(mask, images[0]), atlas.labels, 0)
    ids = label_ids(atlas)
    backend = get_backend(device)
    summary = _Regions(regions, ids, backend)
    values = summary.summarise(images, wanted, missing == "omit", limit)
    columns = column_names(ids, atlas.names, wanted)
    rows = [(image.name, volume) for image in images for volume in range(image.n_volumes)]
    table = pd.DataFrame(values, columns=columns)
    table.insert(0, "image", [name for name, _ in rows])
    table.insert(1, "volume", [volume for _, volume in rows])
    table.attrs["device"] = backend.device
    table.attrs["regions"] = [
        {"label": number, "name": atlas.names.name(number), "statistic": statistic, "voxels": int(voxels)}
        for number, voxels in zip(ids, summary.counts, strict=True)
        for statistic in wanted
    ]
    for column, region in zip(columns, table.attrs["regions"], strict=True):
        region["column"] = column
    return table


def column_names(ids: Sequence[int], names: Any, statistics: Sequence[str]) -> list[str]:
    """Return one column name for each label and statistic; labels of one name are told apart by their number.

    Examples
    --------
    >>> from gpuroi.images import LabelNames
    >>> column_names([3, 5, 9], LabelNames({3: "Insula", 5: "Insula"}), ["mean"])
    ['Insula (3)', 'Insula (5)', 'label 9']
    """
    texts = [names.name(number) for number in ids]
    taken = {"image", "volume"} | {text for text, n in Counter(texts).items() if n > 1}
    unique = [f"{text} ({number})" if text in taken else text for text, number in zip(texts, ids, strict=True)]
    if len(statistics) == 1:
        return unique
    return [f"{text} {statistic}" for text in unique for statistic in statistics]


def _statistics(statistics: str | Sequence[str]) -> list[str]:
    wanted = [statistics] if isinstance(statistics, str) else list(statistics)
    unknown = [s for s in wanted if s not in STATISTICS]
    if unknown or not wanted:
        raise UsageError(f"statistics are {', '.join(map(str, wanted)) or 'none'}", f"known: {', '.join(STATISTICS)}")
    if len(set(wanted)) < len(wanted):
        raise UsageError(f"statistics are {', '.join(wanted)}", "name each once")
    return wanted


def label_ids(atlas: Atlas) -> list[int]:
    """Return the labels of the look-up table in its order, then those of the image that are not in it, ascending."""
    flat = atlas.labels.ravel(order="K")
    # Counting takes a quarter of the time of `unique`.
    present = np.flatnonzero(np.bincount(flat)) if flat.max() < _LOOK_UP else np.unique(flat)
    if not present.any():
        raise DataError(f"{atlas.name}: every voxel is 0: the atlas has no region", "give a label image")
    listed = list(atlas.names)
    return listed + [number for number in present.tolist() if number != 0 and number not in set(listed)]


class _Regions:
    """The voxels of the regions, and what is computed over them. Columns count from 1; 0 is no region."""

    def __init__(self, labels: NDArray[np.int32], ids: list[int], backend: Backend) -> None:
        self.on_host = _columns(labels.T.ravel(), np.array(ids, np.int64))  # in the order of the disk, x fastest
        self.backend, self.n, self.shape = backend, len(ids), labels.shape
        self.counts = np.bincount(self.on_host, minlength=self.n + 1)[1:]
        with backend.activate():
            self.column = backend.asarray(self.on_host)

    @cached_property
    def by_region(self) -> tuple[Array, Array]:
        """Voxels inside, sorted by their column, and these columns."""
        inside = np.flatnonzero(self.on_host)
        inside = inside[np.argsort(self.on_host[inside], kind="stable")]
        return self.backend.asarray(inside), self.backend.asarray(self.on_host[inside])

    def summarise(self, images: Sequence[Image], statistics: list[str], omit: bool, limit: int) -> NDArray[np.float64]:
        """Return (n_volumes, n_columns), the statistics of a region beside each other."""
        dtype = np.dtype(np.float64 if any(_is_wide(image) for image in images) else np.float32)
        rows = [(image, volume) for image in images for volume in range(image.n_volumes)]
        out = np.empty((len(rows), self.n, len(statistics)))

        def work(part: slice) -> None:
            host = _read(rows[part], self.shape, dtype)
            with self.backend.activate(), np.errstate(invalid="ignore", over="ignore"):
                values = self.backend.asarray(host.transpose(0, 3, 2, 1).reshape(len(host), -1))  # (n, v)
                for k, result in enumerate(self._compute(values, statistics, omit)):
                    out[part, :, k] = self.backend.to_numpy(result)

        size = math.prod(self.shape)
        needed = size * (dtype.itemsize + _BYTES_A_VALUE + ("std" in statistics) * _BYTES_A_DEVIATION)
        if {"median", "min", "max"} & set(statistics):
            needed += int(self.counts.sum()) * _BYTES_A_SORTED_VALUE
        map_chunks(work, len(rows), needed, backend=self.backend, limit=limit)
        for image in images:
            image.release()
        return out.reshape(len(rows), -1)

    def _compute(self, values: Array, statistics: list[str], omit: bool) -> list[Array]:
        """Return each statistic, (n, n_columns) float64; NaN where a region has no value."""
        xp, finite, clean = self.backend.xp, None, values
        total, voxels = self.backend.label_sums(values, self.column, self.n)
        count = voxels.astype(np.float64)[None]
        # A finite sum has finite terms: most images are never looked at a second time.
        if omit and not bool(xp.isfinite(total).all()):  # sync: reads one bool
            finite = xp.isfinite(values)
            clean = xp.where(finite, values, values.dtype.type(0))
            total, _ = self.backend.label_sums(clean, self.column, self.n)
            count, _ = self.backend.label_sums(finite.astype(np.float32), self.column, self.n)
        count = xp.where(count > 0, count, xp.nan)  # an empty region gives NaN in every statistic
        results: dict[str, Array] = {"sum": total + 0 * count, "mean": total / count}
        if "std" in statistics:
            results["std"] = self._std(clean, finite, results["mean"], count)
        if {"median", "min", "max"} & set(statistics):
            kept = clean if finite is None else xp.where(finite, values, values.dtype.type(np.nan))
            results |= self._order(kept, count, omit)
        return [results[s] for s in statistics]

    def _std(self, clean: Array, finite: Array | None, mean: Array, count: Array) -> Array:
        xp = self.backend.xp
        safe = xp.concatenate([xp.zeros((len(mean), 1)), mean], axis=1)
        deviation = clean - xp.take(safe, self.column, axis=1)  # float64 (n, v): two passes, never E[y^2] - E[y]^2
        if finite is not None:
            deviation = xp.where(finite, deviation, 0.0)
        squares, _ = self.backend.label_sums(deviation * deviation, self.column, self.n)
        return xp.sqrt(squares / count)

    def _order(self, values: Array, count: Array, omit: bool) -> dict[str, Array]:
        """Median, smallest and largest from the sorted values of each region; NaN sorts last."""
        xp = self.backend.xp
        inside, column = self.by_region
        starts = xp.asarray(np.cumsum(self.counts) - self.counts)
        results = {name: xp.full((len(values), self.n), xp.nan) for name in ("median", "min", "max")}
        for row in range(len(values)):
            mine = values[row][inside]
            keys = xp.concatenate([mine[None], column.astype(mine.dtype)[None]])
            mine = mine[xp.lexsort(keys)].astype(np.float64)
            n = xp.broadcast_to(count, results["min"].shape)[row]
            known = ~xp.isnan(n)
            size = xp.where(known, n, 1).astype(np.int64)
            first = xp.where(known, starts, 0)
            last = first + size - 1
            low, high = mine[first + (size - 1) // 2], mine[first + size // 2]
            middle = xp.where(low == high, low, low + (high - low) / 2)  # equal infinities have no difference
            spoilt = ~known if omit else ~known | xp.isnan(mine[last])
            for name, found in (("median", middle), ("min", mine[first]), ("max", mine[last])):
                results[name][row] = xp.where(spoilt, xp.nan, found)
        return results


def _columns(labels: NDArray[np.int32], ids: NDArray[np.int64]) -> NDArray[np.int32]:
    """Column of each voxel, from 1; 0 where its label is not among the ids."""
    largest = int(ids.max())
    if largest < _LOOK_UP:
        table = np.zeros(largest + 2, np.int32)  # the last entry is for all larger labels
        table[ids] = np.arange(1, len(ids) + 1)
        return np.asarray(table[np.minimum(labels, largest + 1)])
    order = np.argsort(ids, kind="stable")
    place = np.minimum(np.searchsorted(ids[order], labels), len(ids) - 1)
    return np.where(ids[order][place] == labels, order[place] + 1, 0).astype(np.int32)


def _read(rows: Sequence[tuple[Image, int]], shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Return volumes (n, X, Y, Z), each in the order of the disk; files are read side by side."""
    from gpuroi.backends.threads import run_blocks

    first, start = rows[0]
    if rows[-1][0] is first:
        return first.view(start, start + len(rows), dtype=dtype)
    out = np.empty((len(rows), *shape[::-1]), dtype).transpose(0, 3, 2, 1)

    def read(begin: int, end: int) -> None:
        for i in range(begin, end):
            image, volume = rows[i]
            image.read(volume, volume + 1, out=out[i : i + 1])

    run_blocks(read, len(rows))
    return out


def _is_wide(image: Image) -> bool:
    """Whether float32 would round the stored numbers."""
    return image.stored_dtype.itemsize >= (8 if image.stored_dtype.kind == "f" else 4)
