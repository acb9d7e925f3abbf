"""A Dask cluster gives the bytes of one machine, whatever the number of workers and whoever dies."""

from __future__ import annotations

import gc
import os
import shutil
import signal
from pathlib import Path
from types import SimpleNamespace

import nibabel
import numpy as np
import pandas as pd
import pytest

pytest.importorskip("distributed", reason="Dask is not installed")

from gpuroi.cli import main
from gpuroi.cohort import maps_from_store, pack_maps, read_participants
from gpuroi.demo_data import demo
from gpuroi.distributed import permutations
from gpuroi.distributed.client import dask_client
from gpuroi.distributed.fitting import glm_on
from gpuroi.distributed.packing import pack_on
from gpuroi.distributed.permutations import permutation_test_on
from gpuroi.distributed.tasks import run_tasks
from gpuroi.errors import DataError, DeviceError, UsageError
from gpuroi.inference import glm, permutation_test
from gpuroi.inference.permutation_settings import PermutationSettings
from gpuroi.inference.shares import permutation_shares
from gpuroi.workflows.screen import screen

SHAPE, N = (20, 20, 12), 150  # two bands of participants


@pytest.fixture(scope="module")
def client():
    with dask_client("local:2") as connected:
        yield connected


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    folder = tmp_path_factory.mktemp("maps")
    rng = np.random.default_rng(0)
    paths = []
    for i in range(N):
        values = rng.standard_normal(SHAPE).astype(np.float32)
        values[0, 5, :3] = np.nan if i % 7 == 0 else 1.0  # lacking in some maps, constant in the others
        paths.append(folder / f"sub-{i:03}.nii.gz")
        nibabel.save(nibabel.Nifti1Image(values, np.diag([3, 3, 3, 1.0])), paths[-1])
    mask = np.ones(SHAPE, np.uint8)
    mask[:, :2] = 0
    nibabel.save(nibabel.Nifti1Image(mask, np.diag([3, 3, 3, 1.0])), folder / "mask.nii.gz")
    ids = [path.name.removesuffix(".nii.gz") for path in paths]
    return SimpleNamespace(ids=ids, maps=paths, mask=folder / "mask.nii.gz")


@pytest.fixture(scope="module")
def store(cohort, tmp_path_factory):
    return pack_maps(cohort, cohort.mask, tmp_path_factory.mktemp("store") / "cohort.zarr")


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.mark.parametrize("options", [{}, {"dtype": "float16"}, {"smoothing_fwhm_mm": 6.0}])
def test_workers_pack_the_bytes_of_one_machine(client, cohort, tmp_path, options):
    alone = pack_maps(cohort, cohort.mask, tmp_path / "alone.zarr", **options)
    together = pack_on(client, cohort, cohort.mask, tmp_path / "together.zarr", **options)
    together.verify()
    assert files(together.path) == files(alone.path)


def test_damaged_map_is_named_by_the_worker_and_nothing_is_left(client, cohort, tmp_path):
    bad = tmp_path / "sub-140.nii.gz"
    bad.write_bytes(cohort.maps[140].read_bytes()[:-2000])
    maps = [*cohort.maps[:140], bad, *cohort.maps[141:]]
    with pytest.raises(DataError, match=r"sub-140"):
        pack_on(client, SimpleNamespace(ids=cohort.ids, maps=maps), cohort.mask, tmp_path / "out.zarr")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["sub-140.nii.gz"]


def as_tuple(df):
    return df if isinstance(df, tuple) else (df,)


def design_of(n: int) -> np.ndarray:
    rng = np.random.default_rng(1)
    return np.column_stack([np.ones(n), np.arange(n) % 2, rng.standard_normal(n)])


@pytest.mark.parametrize(("rule", "options"), [("drop-voxel", {}), ("pattern", {"missing": "pattern"})])
def test_workers_fit_the_bits_of_one_machine(client, store, rule, options, monkeypatch):
    monkeypatch.setattr("gpuroi.distributed.fitting._TASK_BYTES", 1)  # as many tasks as there are blocks
    source = maps_from_store(store, missing_data=rule, min_coverage=0.5, memory_limit=1).data
    contrasts = {"group": [0, 1, 0], "any": [[0, 1, 0], [0, 0, 1]]}
    seen: list[tuple[int, int]] = []
    together = glm_on(client, source, design_of(N), contrasts, progress=lambda *at: seen.append(at), **options)
    alone = glm(source, design_of(N), contrasts, **options)
    for name, expected in alone.items():
        found = together[name]
        assert (found.kind, found.n_constant, found.n_not_estimable) == (
            expected.kind,
            expected.n_constant,
            expected.n_not_estimable,
        )
        for part in ("effect", "variance", "statistic", "z", "p", "log10p"):
            np.testing.assert_array_equal(getattr(found, part), getattr(expected, part), err_msg=part)
        for one, other in zip(as_tuple(found.df), as_tuple(expected.df), strict=True):
            np.testing.assert_array_equal(one, other)
    assert seen[-1] == (source.shape[1], source.shape[1])
    assert len(seen) > 1


def test_store_that_changed_meanwhile_is_refused_by_the_workers(client, cohort, tmp_path):
    few = SimpleNamespace(ids=cohort.ids[:9], maps=cohort.maps[:9])
    store = pack_maps(few, cohort.mask, tmp_path / "cohort.zarr")
    pack_maps(SimpleNamespace(ids=few.ids, maps=cohort.maps[9:18]), cohort.mask, store.path, overwrite=True)
    with pytest.raises(DataError, match="has changed"):
        glm_on(client, store, design_of(9), {"group": [0, 1, 0]})


TESTS = {
    "max-t": {},
    "clusters": {"cluster_threshold": 2.0, "cluster_scale": "z"},
    "tfce": {"tfce": True},
    "flips": {"errors": "ise", "flips": "group"},
    "variance-groups": {"variance_groups": np.arange(N) % 2, "n_permutations": 80},  # slow: fitted anew each time
}


def assert_same(found, expected):
    """Equal to the last bit, in all that a result holds."""
    for name in ("statistic", "effect", "p", "p_fwe", "p_fdr", "cluster_labels", "tfce", "tfce_p_fwe", "df"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name), err_msg=name)
    assert found.null.keys() == expected.null.keys()
    for name, values in expected.null.items():
        np.testing.assert_array_equal(found.null[name], values, err_msg=name)
    if expected.cluster_table is not None:
        pd.testing.assert_frame_equal(found.cluster_table, expected.cluster_table)
    assert found.settings == expected.settings


@pytest.fixture(scope="module")
def maps(store):
    return maps_from_store(store, memory_limit=1)


@pytest.mark.parametrize("test", TESTS)
def test_workers_count_the_bits_of_one_machine(client, maps, test, monkeypatch):
    monkeypatch.setattr("gpuroi.distributed.permutations._MOST_BATCHES", 1)
    needs_domain = test in ("clusters", "tfce")
    options = {"n_permutations": 600, "seed": 3, **TESTS[test]}
    settings = PermutationSettings(domain=maps.mask if needs_domain else None, **options)
    contrast = [0, 0, 1] if test == "flips" else [0, 1, 0]
    seen: list[tuple[int, int]] = []
    together = permutation_test_on(
        client, maps.data, design_of(N), contrast, settings, progress=lambda *at: seen.append(at)
    )
    with permutation_shares(maps.data, design_of(N), contrast, settings, "cpu") as shares:
        shares.count_all()
        assert_same(together, shares.result())
        assert seen[-1] == (shares.n, shares.n)
        assert len(seen) == -(-shares.n // shares.batch)


def test_interrupted_permutations_go_on_with_another_number_of_workers(client, maps):
    settings = PermutationSettings(n_permutations=640, domain=maps.mask, tfce=True)
    kept = []

    def interrupt(state):
        kept.append(state)
        if len(kept) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        permutation_test_on(client, maps.data, design_of(N), [0, 1, 0], settings, checkpoint=interrupt)
    assert 0 < kept[-1].done < 640
    with dask_client("local:1") as other:
        resumed = permutation_test_on(other, maps.data, design_of(N), [0, 1, 0], settings, resume=kept[-1])
    alone = permutation_test(maps.data, design_of(N), [0, 1, 0], n_permutations=640, domain=maps.mask, tfce=True)
    assert_same(resumed, alone)


def test_worker_killed_amid_permutations_changes_nothing(maps):
    settings = PermutationSettings(n_permutations=1280, domain=maps.mask, tfce=True)
    with dask_client("local:2") as client:
        pids = list(client.run(os.getpid).values())
        killed: list[int] = []

        def kill_one(done, _n):
            if not killed:
                killed.append(done)
                os.kill(pids[0], signal.SIGKILL)

        found = permutation_test_on(client, maps.data, design_of(N), [0, 1, 0], settings, progress=kill_one)
    assert 0 < killed[0] < 1280
    alone = permutation_test(maps.data, design_of(N), [0, 1, 0], n_permutations=1280, domain=maps.mask, tfce=True)
    assert_same(found, alone)


def test_worker_without_room_keeps_its_residuals_in_a_file(maps, tmp_path, monkeypatch):
    settings = PermutationSettings(n_permutations=100)
    work = permutations._CountShares(maps.data, design_of(N), np.array([0.0, 1, 0]), settings, "cpu")
    monkeypatch.setattr(permutations, "worker_memory", lambda: (1e6, str(tmp_path)))
    monkeypatch.setattr(permutations, "n_task_threads", lambda: 1)
    setup = work(None, True)
    assert [path for path in tmp_path.rglob("*") if path.is_file()]
    with permutation_shares(maps.data, design_of(N), [0, 1, 0], settings, "cpu") as shares:
        assert (setup.key, setup.batch) == (shares.key, shares.batch)
        np.testing.assert_array_equal(work((0, 100), False).counts, shares.count(0, 100).counts)
    work._shares.close()
    assert not list(tmp_path.iterdir())


def test_error_of_the_design_is_told_before_anything_is_sent(client, maps):
    with pytest.raises(DataError, match="design has shape"):
        permutation_test_on(client, maps.data, design_of(N - 1), [0, 1, 0], PermutationSettings())


def _die_once(marker: str, k: int) -> int:
    """Kill the worker the first time."""
    if k == 3 and not Path(marker).exists():
        Path(marker).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return k * k


def _die(_k: int) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_worker_that_is_killed_loses_nothing(tmp_path):
    with dask_client("local:2") as client:
        found = run_tasks(client, _die_once, [(str(tmp_path / "died"), k) for k in range(8)], name="square")
    assert (tmp_path / "died").exists()
    assert found == [k * k for k in range(8)]


def test_task_that_kills_every_worker_is_an_error():
    with dask_client("local:2") as client, pytest.raises(DeviceError, match="workers died"):
        run_tasks(client, _die, [(0,)], name="fit")


@pytest.mark.parametrize(
    ("where", "error", "said"),
    [
        ("local:none", UsageError, "how many workers"),
        ("nowhere", UsageError, "not a place to run"),
        ("slurm:", UsageError, "not a place to run"),
        ("tcp://127.0.0.1:1", DeviceError, "no Dask scheduler answers"),
        ("slurm:missing.toml", DataError, "missing.toml"),
    ],
)
def test_bad_places_are_refused(where, error, said, monkeypatch):
    monkeypatch.setattr("gpuroi.distributed.client._ANSWER_S", 1)
    with pytest.raises(error, match=said), dask_client(where):
        pass


@pytest.mark.parametrize("text", ["jobs = 0", "jobs = 'two'", "cores = 4", "cluster = 3", "[cluster"])
def test_bad_configurations_are_refused(text, tmp_path):
    path = tmp_path / "slurm.toml"
    path.write_text(text)
    with pytest.raises(DataError, match=r"slurm\.toml"), dask_client(f"slurm:{path}"):
        pass


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # of the half-made cluster, Dask's own
def test_settings_that_jobqueue_does_not_know_are_refused(tmp_path):
    path = tmp_path / "slurm.toml"
    path.write_text("[cluster]\nmemoy = '1GB'")
    with pytest.raises(DataError, match=r"slurm\.toml.*memoy"), dask_client(f"slurm:{path}"):
        pass
    gc.collect()


def test_a_client_of_the_user_stays_open(client):
    with dask_client(client) as same:
        assert same is client
    assert client.submit(sum, [1, 2]).result() == 3


def test_store_travels_as_a_path(store):
    import pickle

    source = maps_from_store(store, ids=store.ids[3:50], memory_limit=1).data
    sent = pickle.dumps(source)
    assert len(sent) < 8 * store.shape[1] + 4000  # the elements that stay, no value of a map
    np.testing.assert_array_equal(pickle.loads(sent).columns(5, 400), source.columns(5, 400))
    assert source.shape == (47, store.shape[1] - 3)


SCREEN = ["--formula", "map ~ group + age", "--contrast", "patient=group[T.patient]", "--n-perm", "130", "--tfce"]


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    demo(folder / "demo", n_subjects=16)
    table, mask = str(folder / "demo" / "participants.tsv"), str(folder / "demo" / "mask.nii.gz")
    words = [table, *SCREEN, "--mask", mask, "--cluster-p", "0.01", "--device", "cpu", "--no-figures"]
    assert main(["screen", *words, "--out", str(folder / "alone")]) == 0
    return SimpleNamespace(folder=folder, words=words, alone=folder / "alone")


def tables_and_maps(folder: Path) -> dict[str, bytes]:
    return {name: data for name, data in files(folder).items() if name.endswith((".tsv", ".nii.gz"))}


def test_screen_on_workers_writes_the_bytes_of_one_machine(study):
    assert main(["screen", *study.words, "--dask", "local:2", "--out", str(study.folder / "spread")]) == 0
    assert tables_and_maps(study.folder / "spread") == tables_and_maps(study.alone)
    assert sorted(path.name for path in study.folder.iterdir()) == ["alone", "demo", "spread"]


def test_screen_of_a_store_with_a_client_of_the_user(client, study):
    table, mask = study.words[0], study.folder / "demo" / "mask.nii.gz"
    people = read_participants(table)
    store = pack_maps(people, mask, study.folder / "cohort.zarr")
    options = {"formula": "map ~ group + age", "contrasts": ["patient=group[T.patient]"], "n_permutations": 130}
    result = screen(table, data=store.path, **options, tfce=True, cluster_p=0.01, dask=client)
    result.save(study.folder / "from_store", figures=False)
    shutil.rmtree(store.path)
    found, expected = tables_and_maps(study.folder / "from_store"), tables_and_maps(study.alone)
    assert found == expected
    assert result.device == "2 Dask workers"


def test_phenotypes_on_workers_are_refused(client, study):
    with pytest.raises(UsageError, match="phenotypes on Dask workers"):
        screen(study.words[0], formula="map ~ group", phenotypes=["age"], dask=client)
