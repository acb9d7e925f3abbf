"""One screening, many ways to compute it: the numbers do not move.

Threads, memory, stores, files, interruptions and workers change no bit. Another shape of the product (block, batch) or
another device may round otherwise: values then agree to a tolerance, p-values of permutations and labels are equal.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from screen_cohorts import AFFINE, save_table, write_cohort

from gpuroi.domains import VoxelGrid
from gpuroi.inference import glm, permutation_test
from gpuroi.inference.columns import StoredColumns
from gpuroi.inference.phenotypes import phenotype_test
from gpuroi.workflows.pack import pack
from gpuroi.workflows.run_folder import RunFolder
from gpuroi.workflows.screen import screen

OPTIONS: dict[str, Any] = {
    "formula": "map ~ group + age",
    "contrasts": ["patient=group[T.patient]", "both=group[T.patient]; age"],
    "mask": "mask.nii.gz",
    "n_permutations": 200,
    "cluster_threshold": 3.0,
    "tfce": True,
    "atlas": "atlas_dseg.nii.gz",
    "seed": 4,
    "device": "cpu",
}
COUNTED = ("p", "p_fwe", "p_fdr", "tfce_p_fwe", "sizes", "labels")  # never a rounding error off
ROUNDING = 2e-5  # of float32 products of another shape, and of TFCE, which grows with the third power


@dataclass
class Way:
    """A way to compute the same.

    Attributes
    ----------
    options : dict
        For `screen`.
    given : callable, optional
        Makes the input; returns options that point to it.
    patches : dict
        Module attributes, by their dotted names.
    family : str
        "real": float32 maps. "whole": maps of whole numbers, which every type holds.
    exact : bool
        To the last bit.
    """

    options: dict[str, Any] = field(default_factory=dict)
    given: Callable[[], dict[str, Any]] = dict
    patches: dict[str, Any] = field(default_factory=dict)
    family: str = "real"
    exact: bool = True


def rewritten(name: str, write: Callable[[int, nib.Nifti1Image], Path], reverse: bool = False) -> dict[str, Any]:
    """A table of the same maps, written in another way."""
    import pandas as pd

    table = pd.read_csv("participants.tsv", sep="\t", dtype={"participant_id": str})
    Path(name).mkdir(exist_ok=True)
    places = range(len(table))[:: -1 if reverse else 1]
    paths = {k: write(k, nib.load(table.loc[k, "map"])) for k in places}
    table.assign(map=[str(paths[k]) for k in range(len(table))]).to_csv(f"{name}.tsv", sep="\t", index=False)
    return {"participants": f"{name}.tsv"}


def big_endian(k: int, image: nib.Nifti1Image) -> Path:
    path = Path(f"big/sub-{k:02d}.nii")
    header = nib.Nifti1Header(endianness=">")
    header.set_data_dtype(np.float32)
    nib.save(nib.Nifti1Image(image.get_fdata(dtype=np.float32), image.affine, header), path)
    assert path.read_bytes()[:4] == b"\x00\x00\x01\x5c"
    return path


def as_pair(k: int, image: nib.Nifti1Image) -> Path:
    path = Path(f"pairs/sub-{k:02d}.img")
    nib.save(nib.Nifti1Pair(image.get_fdata(dtype=np.float32), image.affine), path)
    return path


def plain(k: int, image: nib.Nifti1Image) -> Path:
    path = Path(f"reversed/sub-{k:02d}.nii")
    nib.save(nib.Nifti1Image(image.get_fdata(dtype=np.float32), image.affine), path)
    return path


def stored_as(dtype: str, kind: str) -> dict[str, Any]:
    """The maps with other types in their files."""

    def write(k: int, image: nib.Nifti1Image) -> Path:
        path = Path(f"{dtype}/sub-{k:02d}.nii.gz")
        nib.save(nib.Nifti1Image(image.get_fdata().astype(dtype), image.affine), path)
        return path

    return {**rewritten(dtype, write), **({} if kind == "files" else packed(f"{dtype}.tsv", dtype))}


def packed(table: str, dtype: str | None = None) -> dict[str, Any]:
    out = Path(f"{Path(table).stem}-{dtype}.zarr")
    if not out.exists():
        pack(table, mask="mask.nii.gz", out=out, dtype=dtype)
    return {"data": out}


def on_disk(*where: bool) -> dict[str, Any]:
    return {"gpuroi.workflows.screen_plan._WHERE": (where,)}  # maps, residuals in memory


WAYS = {
    "1 thread": Way({"n_jobs": 1}),
    "2 threads": Way({"n_jobs": 2}),
    "3 threads": Way({"n_jobs": 3}),
    "maps on disk": Way(patches=on_disk(False, True)),
    "residuals on disk": Way(patches=on_disk(True, False)),
    "all on disk, 3 threads": Way({"n_jobs": 3}, patches=on_disk(False, False)),
    "memory limit": Way({"memory_limit": "12MB", "n_jobs": 1}),  # which holds all of so few voxels
    "packed": Way(given=lambda: packed("participants.tsv")),
    "packed, residuals on disk": Way(given=lambda: packed("participants.tsv"), patches=on_disk(False, False)),
    "big-endian files": Way(given=lambda: rewritten("big", big_endian)),
    "pairs of files": Way(given=lambda: rewritten("pairs", as_pair)),
    "files written from the last to the first": Way(given=lambda: rewritten("reversed", plain, reverse=True)),
    "int16 files": Way(given=lambda: stored_as("int16", "files"), family="whole"),
    "int16 store": Way(given=lambda: stored_as("int16", "store"), family="whole"),
    "float16 store": Way(given=lambda: packed("participants.tsv", "float16"), family="whole"),
    "float16 store, on disk": Way(
        given=lambda: packed("participants.tsv", "float16"), patches=on_disk(False, False), family="whole"
    ),
    "blocks of 64": Way(patches={"gpuroi.inference.projection._BLOCK": 64}, exact=False),
    "blocks of 512": Way(patches={"gpuroi.inference.projection._BLOCK": 512}, exact=False),
    "32 rearrangements at a time": Way(patches={"gpuroi.inference.projection.BATCH": 32}, exact=False),
    "96 rearrangements at a time": Way(patches={"gpuroi.inference.projection.BATCH": 96}, exact=False),
}


@contextmanager
def working_in(folder: Path) -> Iterator[None]:
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


@pytest.fixture(scope="module")
def families(tmp_path_factory):
    """Folder and reference of each family of maps."""
    found = {}
    for name in ("real", "whole"):
        folder = tmp_path_factory.mktemp(name)
        with working_in(folder):
            table = write_cohort()
            if name == "whole":
                for path in table["map"]:
                    image = nib.load(path)
                    values = np.rint(image.get_fdata() * 20)
                    nib.save(nib.Nifti1Image(values.astype(np.float32), AFFINE), path)
                save_table(table)
            found[name] = folder, numbers(screen("participants.tsv", **OPTIONS))
    return found


def numbers(result: Any) -> dict[str, np.ndarray]:
    """Every number of a screening, by name."""
    found = {"roi means": result.roi_means.iloc[:, 1:].to_numpy(), "mask": result.mask.mask}
    for name, one in result.contrasts.items():
        fitted, permuted = vars(one.glm), vars(one.permutation)
        found |= {f"{name}: glm {part}": fitted[part] for part in ("effect", "variance", "statistic", "z", "log10p")}
        parts = ("statistic", "p", "p_fwe", "p_fdr", "tfce", "tfce_p_fwe")
        found |= {f"{name}: {part}": permuted[part] for part in parts if permuted[part] is not None}
        found |= {f"{name}: null {part}": values for part, values in one.permutation.null.items()}
        table = one.clusters.drop(columns=["Peak Label", "Labels (%)", "Sign"], errors="ignore")
        found |= {f"{name}: clusters {part}": table[part].to_numpy() for part in table}
        found[f"{name}: labels"] = one.labels
        found[f"{name}: cluster means"] = one.cluster_means.iloc[:, 1:].to_numpy()
    return found


def assert_same(found: dict[str, np.ndarray], expected: dict[str, np.ndarray], exact: bool = True) -> None:
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        if exact or name.rpartition(" ")[2] in COUNTED:
            np.testing.assert_array_equal(found[name], values, err_msg=name)
        else:
            np.testing.assert_allclose(found[name], values, rtol=ROUNDING, atol=1e-6, err_msg=name)


def run(way: Way, folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, np.ndarray]:
    monkeypatch.chdir(folder)
    given = way.given()
    for name, value in way.patches.items():
        monkeypatch.setattr(name, value)
    return numbers(screen(**({"participants": "participants.tsv"} | OPTIONS | way.options | given)))


@pytest.mark.parametrize("name", WAYS)
def test_every_way_gives_the_numbers_of_the_reference(families, monkeypatch, name):
    way, files = WAYS[name], []
    folder, expected = families[way.family]
    made = StoredColumns.__init__
    monkeypatch.setattr(
        StoredColumns, "__init__", lambda self, *at, **how: (files.append(at), made(self, *at, **how))[1]
    )
    assert_same(run(way, folder, monkeypatch), expected, way.exact)
    assert bool(files) == ("disk" in name)


def test_the_reference_finds_what_was_planted(families):
    _, found = families["real"]
    assert found["patient: p_fwe"].min() < 0.05
    assert len(found["patient: clusters Voxels"]) > 10
    assert len(np.unique(found["both: null max_tfce"])) > 100


@pytest.mark.parametrize("batches", [1, 2, 3])
def test_resumed_after_some_batches(families, monkeypatch, tmp_path, batches):
    folder, expected = families["real"]
    monkeypatch.chdir(folder)
    told = 0

    def interrupt(stage: str, done: int, total: int, unit: str = "permutations") -> None:
        nonlocal told
        told += stage in ("patient", "both")
        if told == batches + 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), RunFolder(tmp_path / "out", {"seed": 4}, every_s=0) as first:
        screen("participants.tsv", **OPTIONS, run_folder=first, progress=interrupt)
    with RunFolder(tmp_path / "out", {"seed": 4}, every_s=0) as again:
        assert again.resumed
        assert_same(numbers(screen("participants.tsv", **OPTIONS, run_folder=again)), expected)
        again.finish()


@pytest.mark.kernels
def test_devices(families, monkeypatch, standin_cuda):
    """A device rounds otherwise than a processor; two of them as one."""
    folder, _ = families["real"]
    few = {"n_permutations": 70, "tfce": False, "contrasts": OPTIONS["contrasts"][:1]}  # the stand-in is slow
    expected = run(Way(few), folder, monkeypatch)
    one = run(Way({**few, "device": "cuda:0"}), folder, monkeypatch)
    assert_same(one, expected, exact=False)
    assert_same(run(Way({**few, "device": "cuda:0,cuda:1"}), folder, monkeypatch), one)
    monkeypatch.setattr("gpuroi.workflows.screen_plan._WHERE", ((False, False),))
    assert_same(run(Way({**few, "device": "cuda:0"}), folder, monkeypatch), expected, exact=False)


@pytest.mark.parametrize("workers", [1, 2])
def test_dask_workers(families, monkeypatch, workers):
    pytest.importorskip("distributed", reason="Dask is not installed")
    folder, expected = families["real"]
    way = Way({"dask": f"local:{workers}"}, given=lambda: packed("participants.tsv"))
    assert_same(run(way, folder, monkeypatch), expected)


# ------------------------------------------------------------------ arrays

LAYOUTS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "Fortran order": np.asfortranarray,
    "every second column of a wider one": lambda y: np.repeat(y, 2, axis=1)[:, ::2],
    "from the last to the first": lambda y: np.ascontiguousarray(y[::-1, ::-1])[::-1, ::-1],
    "read-only": lambda y: _read_only(y),
    "big-endian": lambda y: y.astype(y.dtype.newbyteorder(">")),
}


def _read_only(y: np.ndarray) -> np.ndarray:
    copy = y.copy()
    copy.flags.writeable = False
    return copy


def study(dtype: str) -> tuple[np.ndarray, np.ndarray, VoxelGrid]:
    rng = np.random.default_rng(2)
    y = rng.standard_normal((18, 6 * 7 * 8))
    x = np.column_stack([np.ones(18), np.arange(18) % 2, rng.standard_normal(18)])
    y[:, 50:90] += 2 * x[:, 1:2]
    return y.astype(dtype), x, VoxelGrid(np.ones((6, 7, 8), bool))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_layout_of_an_array_changes_no_bit(dtype, layout):
    y, x, grid = study(dtype)
    other = LAYOUTS[layout](y)
    options: dict[str, Any] = {"domain": grid, "cluster_threshold": 2.0, "tfce": True, "n_permutations": 130}
    same_fields(
        permutation_test(other, x, [0, 1, 0], device="cpu", **options),
        permutation_test(y, x, [0, 1, 0], device="cpu", **options),
        ("statistic", "effect", "p", "p_fwe", "tfce", "tfce_p_fwe", "cluster_labels", "null"),
    )
    fields = ("effect", "variance", "statistic", "z", "p", "log10p")
    contrast = [[0, 1, 0], [0, 0, 1]]
    same_fields(glm(other, x, contrast, device="cpu"), glm(y, x, contrast, device="cpu"), fields)
    same_fields(phenotypes(other, x), phenotypes(y, x), ("table", "top", "histogram", "null", "maps", "n_left_out"))


@pytest.mark.parametrize("n_jobs", [1, 2, 3])
def test_threads_and_disk_change_no_bit_of_phenotypes(n_jobs, tmp_path):
    y, x, _ = study("float32")
    fields = ("table", "top", "histogram", "null", "maps", "n_left_out")
    same_fields(phenotypes(y, x, n_jobs=n_jobs), phenotypes(y, x), fields)
    same_fields(phenotypes(y, x, n_jobs=n_jobs, scratch=tmp_path), phenotypes(y, x), fields)


@pytest.mark.kernels
def test_a_device_gives_the_p_values_of_phenotypes(standin_cuda):
    y, x, _ = study("float32")
    there, here = phenotypes(y, x, device="cuda:0"), phenotypes(y, x)
    for name in ("phenotype", "n", "df", "element", "p_fwe", "p_fwe_all"):
        np.testing.assert_array_equal(there.table[name], here.table[name], err_msg=name)
    np.testing.assert_allclose(there.null, here.null, rtol=1e-4)
    np.testing.assert_allclose(there.maps["b"], here.maps["b"], rtol=1e-4, atol=1e-5)


def phenotypes(y: np.ndarray, x: np.ndarray, *, device: str = "cpu", **how: Any) -> Any:
    rng = np.random.default_rng(9)
    traits = rng.standard_normal((len(y), 3)) + x[:, 1:2]
    traits[4, 2] = np.nan
    covariates = np.delete(x, 1, axis=1)
    asked = {"names": ["a", "b", "c"], "maps": ["b"], "n_permutations": 100, "top": 5}
    return phenotype_test(y, traits, covariates, device=device, **asked, **how)


def same_fields(found: Any, expected: Any, names: tuple[str, ...]) -> None:
    for name in names:
        ours, theirs = getattr(found, name), getattr(expected, name)
        if isinstance(theirs, dict):
            assert ours.keys() == theirs.keys()
            for key in theirs:
                np.testing.assert_array_equal(ours[key], theirs[key], err_msg=f"{name} {key}")
        elif hasattr(theirs, "columns"):
            assert ours.equals(theirs), name
        else:
            np.testing.assert_array_equal(ours, theirs, err_msg=name)
