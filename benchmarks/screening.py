"""A whole screening, from a table of compressed images to corrected maps in a folder, beside nilearn.

python -m benchmarks.screening           # 100 maps at 2 mm, 1000 permutations; writes benchmarks/results/
python -m benchmarks.screening --tiny    # a small cohort; writes nothing

gpuroi runs as its command, in a process of its own, start and writing included: maps, clusters, the means over an
atlas, sidecars; with its report and figures in a run of its own. nilearn runs `non_parametric_inference` with clusters
and TFCE in this process, already imported, and saves its maps. A thousand permutations with TFCE would take it an hour:
it runs a few, and a few more, and the line through both gives what a permutation takes and what the rest does.
"""

from __future__ import annotations

import argparse
import datetime
import os
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.inputs import SIZES, VOXEL_MM, Size, atlas, brain_mask, noise_maps
from benchmarks.machine import commit, machine, packages
from benchmarks.run import RESULTS, write

__all__ = ["Cohort", "main", "make_cohort", "measure"]

_THRESHOLD = 3.1
_SUBJECTS, _PERMUTATIONS, _REPEATS = 100, 1000, 3
_NILEARN_FEW, _NILEARN_MORE = 4, 16
_EFFECT = 1.2


class Cohort:
    """The files of a made-up cohort."""

    def __init__(self, folder: Path, size: Size, n_subjects: int) -> None:
        self.folder, self.size, self.n = folder, size, n_subjects
        self.table, self.mask, self.atlas = folder / "participants.tsv", folder / "mask.nii.gz", folder / "atlas.nii.gz"
        self.group = np.arange(n_subjects) % 2
        self.age = np.random.default_rng(3).uniform(20, 80, n_subjects).round(1)

    @property
    def maps(self) -> list[Path]:
        return [self.folder / f"sub-{i:03}_effect.nii.gz" for i in range(self.n)]


def main(words: Sequence[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.screening", description="Measure a whole screening.")
    parser.add_argument("--tiny", action="store_true", help="a small cohort; writes nothing")
    parser.add_argument("--out", type=Path, help="file to write")
    options = parser.parse_args(words)
    size, n_subjects, n_permutations = SIZES["full"], _SUBJECTS, _PERMUTATIONS
    if options.tiny:
        size, n_subjects, n_permutations = SIZES["tiny"], 12, 40
    with tempfile.TemporaryDirectory(prefix="gpuroi-screening-") as folder:
        cohort = make_cohort(Path(folder), size, n_subjects)
        measured = measure(cohort, n_permutations, repeats=1 if options.tiny else _REPEATS)
    record: dict[str, Any] = {
        "format": 1,
        "kind": "screening",
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": "python -m benchmarks.screening",
        "machine": machine(None),
        "packages": packages(),
        "commit": commit(),
        "settings": {
            "maps": n_subjects,
            "shape": list(size.shape),
            "voxels": int(brain_mask(size.shape).sum()),
            "permutations": n_permutations,
            "cluster_threshold_t": _THRESHOLD,
            "tfce": {"gpuroi": "exact", "nilearn": "100 steps"},
        },
        **measured,
    }
    target = options.out or (None if options.tiny else RESULTS / f"cpu-screening-{record['date'][:10]}.json")
    if target is not None:
        write(record, target)
        print(f"written: {target}")
    ours, theirs = measured["gpuroi_s"]["command"], measured["nilearn_s"]["extrapolated"]
    print(f"gpuroi {ours:.1f} s, nilearn {theirs:.0f} s (extrapolated), {theirs / ours:.0f} times longer")
    return 0


def make_cohort(folder: Path, size: Size, n_subjects: int) -> Cohort:
    """Write maps, mask, atlas and table: smooth noise, and an effect of the group in a cube."""
    import nibabel

    affine = np.diag([VOXEL_MM, VOXEL_MM, VOXEL_MM, 1.0])
    cohort = Cohort(folder, size, n_subjects)
    values = noise_maps(size.shape, n_subjects).copy()
    values[cohort.group == 1, 6:12, 6:12, 6:12] += _EFFECT
    for path, volume in zip(cohort.maps, values, strict=True):
        nibabel.save(nibabel.Nifti1Image(volume.astype(np.float32), affine), path)
    nibabel.save(nibabel.Nifti1Image(brain_mask(size.shape).astype(np.uint8), affine), cohort.mask)
    labels = np.where(brain_mask(size.shape), atlas(size.shape, size.labels), 0).astype(np.int32)
    nibabel.save(nibabel.Nifti1Image(labels, affine), cohort.atlas)
    rows = ["participant_id\tmap\tgroup\tage"]
    for path, group, age in zip(cohort.maps, cohort.group, cohort.age, strict=True):
        rows.append(f"{path.name[:7]}\t{path.name}\t{'patient' if group else 'control'}\t{age}")
    cohort.table.write_text("\n".join(rows) + "\n")
    return cohort


def measure(cohort: Cohort, n_permutations: int, *, repeats: int) -> dict[str, Any]:
    """Return the seconds of both, and how far their t differ."""
    ours = [_command(cohort, n_permutations, "out", "--no-figures") for _ in range(1 + repeats)][1:]  # compiled first
    with_report = _command(cohort, n_permutations, "report")
    _nilearn(cohort, 2)  # imports, and starts its processes
    few, more = _nilearn(cohort, _NILEARN_FEW), _nilearn(cohort, _NILEARN_MORE)
    each = (more - few) / (_NILEARN_MORE - _NILEARN_FEW)
    return {
        "gpuroi_s": {"command": statistics.median(ours), "all": ours, "with_report_and_figures": with_report},
        "nilearn_s": {
            "permutations": [_NILEARN_FEW, _NILEARN_MORE],
            "measured": [few, more],
            "each_permutation": each,
            "extrapolated": few + each * (n_permutations - _NILEARN_FEW),
        },
        "largest_difference_of_t": _difference(cohort),
    }


def _command(cohort: Cohort, n_permutations: int, out: str, *more: str) -> float:
    words = [
        "screen", str(cohort.table), "--formula", "map ~ group + age", "--contrast", "patient=group[T.patient]",
        "--mask", str(cohort.mask), "--atlas", str(cohort.atlas), "--n-perm", str(n_permutations),
        "--cluster-threshold", str(_THRESHOLD), "--tfce", "--device", "cpu", "--out", str(cohort.folder / out),
        "--overwrite", *more,
    ]  # fmt: skip
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "gpuroi", *words], capture_output=True, text=True, check=False, env=os.environ
    )
    seconds = time.perf_counter() - start
    if done.returncode:
        raise SystemExit(f"gpuroi {' '.join(words)}: exit {done.returncode}\n{done.stderr}")
    return seconds


def _nilearn(cohort: Cohort, n_permutations: int) -> float:
    import pandas as pd
    from nilearn.glm.second_level import non_parametric_inference
    from scipy.stats import t

    design = pd.DataFrame({"patient": cohort.group, "age": cohort.age, "intercept": 1.0})
    start = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # nilearn's of its own images of integers
        found = non_parametric_inference(
            [str(path) for path in cohort.maps],
            design_matrix=design,
            second_level_contrast="patient",
            mask=str(cohort.mask),
            two_sided_test=True,
            n_perm=n_permutations,
            threshold=2 * t.sf(_THRESHOLD, cohort.n - design.shape[1]),
            tfce=True,
            n_jobs=os.cpu_count() or 1,
            random_state=0,
        )
    for name, image in found.items():
        image.to_filename(cohort.folder / f"nilearn_{name}.nii.gz")
    return time.perf_counter() - start


def _difference(cohort: Cohort) -> float:
    """Largest difference of the t maps in any voxel, relative to the largest t."""
    import nibabel

    t = np.asarray(nibabel.load(cohort.folder / "out" / "contrast-patient_stat-t_statmap.nii.gz").dataobj)
    other = np.asarray(nibabel.load(cohort.folder / "nilearn_t.nii.gz").dataobj)
    inside = brain_mask(cohort.size.shape)
    return float(np.nanmax(np.abs(t - other)[inside]) / np.nanmax(np.abs(other)))


if __name__ == "__main__":
    raise SystemExit(main())
