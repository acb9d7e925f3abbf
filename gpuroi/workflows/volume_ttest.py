"""t-tests on image files: conditions of a run, or sets of images."""

from __future__ import annotations

import math
from collections import Counter
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from gpuroi.backends.memory import map_chunks
from gpuroi.errors import DataError, UsageError
from gpuroi.workflows.volume_job import VolumeJob, VolumesResult, holds_numbers, refuse_missing, volumes_on_host

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from gpuroi.images.read import Image

__all__ = ["ttest_image"]

Alternative = Literal["two-sided", "less", "greater"]
NanPolicy = Literal["propagate", "omit", "raise"]


def ttest_image(
    images: Any,
    out: str | Path,
    *,
    conditions: Any = None,
    contrast: str | None = None,
    versus: Any = None,
    paired: bool = False,
    popmean: float = 0.0,
    equal_var: bool = True,
    alternative: Alternative = "two-sided",
    nan_policy: NanPolicy = "propagate",
    mask: Any = None,
    tr: float | None = None,
    out_log10p: str | Path | None = None,
    device: str = "auto",
    memory_limit: int | str | None = None,
    overwrite: bool = False,
) -> VolumesResult:
    """Test means voxel by voxel: of two conditions, of two sets of images, or of one set against a number.

    Parameters
    ----------
    images : path, or sequence of them
        With `conditions`: one or more 4-D runs. Otherwise the observations: every volume of every image.
    out : path
        t, float32. NaN where the test does not exist, as where the data do not vary and the effect is 0.
    conditions : path or sequence of paths, optional
        Labels or events, one file a run: see `gpuroi.roi`.
    contrast : str, optional
        Which conditions are compared, "face-house": the first minus the second.
    versus : path, or sequence of them, optional
        A second set of images: the effect is the first set minus the second.
    paired : bool, default False
        Take the k-th volume of one condition or set with the k-th of the other.
    popmean : float, default 0
        Mean expected of a single set.
    equal_var : bool, default True
        True: Student's test. False: Welch's, for two independent sets.
    alternative : {"two-sided", "less", "greater"}
    nan_policy : {"propagate", "omit", "raise"}
        "omit" leaves NaN out, voxel by voxel.
    mask : path, optional
        Results are 0 where it is.
    tr : float, optional
        Repetition time in seconds, for events; by default the header's.
    out_log10p : path, optional
        Write -log10 p too, a positive number: exact where p itself would be 0.
    device : {"auto", "cpu", "cuda", "cuda:N"}, default "auto"
    memory_limit : int or str, optional
        Bytes to work with on the device, as 4e9 or "4GB".
    overwrite : bool, default False

    Returns
    -------
    VolumesResult
        `counts` holds the test, the number of observations a side, the degrees of freedom (None where they
        differ between voxels), and `voxels_without_test` (NaN).

    Raises
    ------
    UsageError, DataError, DeviceError, OutputError

    See Also
    --------
    gpuroi.ops.ttest_ind : the same for arrays, as ttest_rel and ttest_1samp.

    Notes
    -----
    Volumes of one run are not independent: over the conditions of a run, p screens for regions, it does not test.
    """
    from gpuroi.images.read import open_images

    _check_design(conditions, contrast, versus, paired=paired, popmean=popmean, equal_var=equal_var)
    first, second = open_images(images), [] if versus is None else open_images(versus)
    job = VolumeJob(
        "ttest",
        [*first, *second],
        [out] if out_log10p is None else [out, out_log10p],
        mask=mask,
        device=device,
        memory_limit=memory_limit,
        overwrite=overwrite,
    )
    with job.watch("read"):
        samples = (
            _of_conditions(job, _listed(conditions), contrast, tr)
            if contrast is not None
            else {name: _all_volumes(job, some) for name, some in (("images", first), ("versus", second)) if some}
        )
    sizes = {name: len(sample) for name, sample in samples.items()}
    _check_sizes(sizes, paired=paired)
    with job.watch("ttest"):
        rules: dict[str, Any] = {"alternative": alternative, "nan_policy": nan_policy}
        if not paired and len(samples) == 2:
            rules["equal_var"] = equal_var
        t, log10p, df = _test(job, list(samples.values()), popmean, rules, paired=paired)
    kind = "one-sample" if len(samples) == 1 else "paired" if paired else "Student's" if equal_var else "Welch's"
    counts = {
        "test": kind,
        "observations": sizes,
        "df": df,
        "voxels_without_test": int(np.count_nonzero(np.isnan(t))),
    }
    settings = {
        "contrast": contrast,
        "paired": paired,
        "popmean": popmean,
        "equal_var": equal_var,
        "alternative": alternative,
        "nan_policy": nan_policy,
        "tr_s": tr,
    }
    contents = ["t", "-log10 p"][: len(job.outs)]
    return job.save([t, log10p][: len(job.outs)], settings, counts, contents=contents, more_inputs=_listed(conditions))


def _test(
    job: VolumeJob, samples: Sequence[NDArray[Any]], popmean: float, rules: dict[str, Any], *, paired: bool
) -> tuple[NDArray[np.float32], NDArray[np.float32], float | None]:
    """Return t and -log10 p `(X, Y, Z)` and the degrees of freedom, slab by slab along Z."""
    from gpuroi.ops import peak_bytes, ttest_1samp, ttest_ind, ttest_rel

    backend, shape = job.backend, job.images[0].shape
    t, log10p = (volumes_on_host(1, shape, np.float32)[0] for _ in range(2))

    def work(slab: slice) -> float | None:
        with backend.activate():
            parts = [backend.asarray(sample[..., slab]) for sample in samples]  # (n, X, Y, z)
            if len(parts) == 1:
                result = ttest_1samp(parts[0], popmean, **rules)
            else:
                result = (ttest_rel if paired else ttest_ind)(*parts, **rules)
            found = (result.statistic, -result.log10p)
            if job.inside is not None:
                found = tuple(backend.xp.where(job.inside[..., slab], values, 0.0) for values in found)
            t[..., slab], log10p[..., slab] = (backend.to_numpy(values) for values in found)
            return float(result.df) if np.ndim(result.df) == 0 else None

    test = "ttest_1samp" if len(samples) == 1 else "ttest_rel" if paired else "ttest_ind"
    n_volumes = sum(len(sample) for sample in samples)
    slab = (n_volumes, *shape[:2], 1)
    bytes_each = math.prod(slab) * 2 * job.dtype.itemsize + peak_bytes(test, slab, job.dtype, device=backend.device)
    df = map_chunks(work, shape[2], bytes_each, backend=backend, limit=job.limit)
    log10p += 0.0  # -log10 of 1 is 0, not -0
    return t, log10p, df[0]


def _of_conditions(
    job: VolumeJob, conditions: Sequence[Any], contrast: str, tr: float | None
) -> dict[str, NDArray[Any]]:
    """Return the volumes of the two conditions of the contrast, over all runs."""
    from gpuroi.workflows.conditions import label_volumes, read_conditions, split_contrast

    if len(conditions) != len(job.images):
        raise DataError(
            f"{len(job.images)} images, but {len(conditions)} label files: every run needs its own",
            "give as many label files as images, in the same order",
        )
    runs = [read_conditions(source) for source in conditions]
    listed = [
        label_volumes(run, image.n_volumes, image=image.name, tr_s=image.tr_s if tr is None else tr)
        for run, image in zip(runs, job.images, strict=True)
    ]
    pair = split_contrast(contrast, Counter(label for labels in listed for label in labels.tolist()))
    if any(run.labels is None for run in runs):  # again, now that it is known which events must not overlap
        listed = [
            label_volumes(run, image.n_volumes, image=image.name, tr_s=image.tr_s if tr is None else tr, contrast=pair)
            for run, image in zip(runs, job.images, strict=True)
        ]
    sizes = {name: sum(int((labels == name).sum()) for labels in listed) for name in pair}
    samples = {name: volumes_on_host(size, job.images[0].shape, job.dtype) for name, size in sizes.items()}
    filled = dict.fromkeys(pair, 0)
    for image, labels in zip(job.images, listed, strict=True):
        volumes = image.read(dtype=job.dtype)
        if not holds_numbers(volumes):
            refuse_missing(image)
        for name in pair:
            chosen = np.flatnonzero(labels == name)
            samples[name][filled[name] : filled[name] + len(chosen)] = volumes[chosen]
            filled[name] += len(chosen)
    return samples


def _all_volumes(job: VolumeJob, images: Sequence[Image]) -> NDArray[Any]:
    """Return every volume of every image, (n, X, Y, Z)."""
    volumes = volumes_on_host(sum(image.n_volumes for image in images), images[0].shape, job.dtype)
    start = 0
    for image in images:
        part = volumes[start : start + image.n_volumes]
        image.read(out=part)
        if not holds_numbers(part):
            refuse_missing(image)
        start += image.n_volumes
    return volumes


def _check_design(
    conditions: Any, contrast: str | None, versus: Any, *, paired: bool, popmean: float, equal_var: bool
) -> None:
    """Refuse arguments that contradict each other, before any file is opened."""
    if (conditions is None) != (contrast is None):
        given, missing = ("contrast", "conditions") if conditions is None else ("conditions", "contrast")
        raise UsageError(
            f"{given} is given without {missing}", "give both: --conditions labels.tsv --contrast face-house"
        )
    if conditions is not None and versus is not None:
        raise UsageError("both conditions and a second set of images are given", "compare either conditions or images")
    one_sample = conditions is None and versus is None
    if one_sample and paired:
        raise UsageError("a paired test needs two samples", "give the second with --versus, or --conditions")
    if not one_sample and popmean != 0:
        raise UsageError(
            f"popmean is {popmean:g}, but two samples are compared", "leave it out: it is for a single set"
        )
    if not equal_var and (one_sample or paired):
        raise UsageError("Welch's test compares two independent samples", "leave --welch out")


def _check_sizes(sizes: dict[str, int], *, paired: bool) -> None:
    told = " and ".join(f"{size} ({name})" for name, size in sizes.items())
    if paired and len(set(sizes.values())) > 1:
        raise DataError(f"a paired test needs two samples of one size, got {told} volumes", "pair every volume")
    fewest = 2 if paired or len(sizes) == 1 else 1
    if min(sizes.values()) < fewest or (len(sizes) == 2 and sum(sizes.values()) < 3):
        raise DataError(f"too few volumes for a t-test: {told}", "give two or more of each")


def _listed(source: Any) -> list[Any]:
    if source is None:
        return []
    return list(source) if isinstance(source, list | tuple) else [source]
