"""Rearrangements that are counted in shares, in any order, anywhere, give the result of one run to the last bit."""

from __future__ import annotations

import itertools
import pickle
import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuroi.backends import get_backends
from gpuroi.domains import VoxelGrid
from gpuroi.errors import DataError, DeviceError, OutputError, UsageError
from gpuroi.inference import permutation_test
from gpuroi.inference.permutation_result import ResultOf
from gpuroi.inference.permutation_settings import PermutationSettings
from gpuroi.inference.permutation_tally import PermutationShare, PermutationTally
from gpuroi.inference.shares import permutation_shares

N = 300
GRID = VoxelGrid(np.ones((6, 5, 10), bool))
CASES = {
    "maxima": {},
    "clusters": {"domain": GRID, "cluster_threshold": 2.0, "cluster_scale": "z"},
    "tfce": {"domain": GRID, "cluster_threshold": 2.0, "tfce": True},
    "small tfce": {"domain": VoxelGrid(np.ones((4, 3, 5), bool)), "tfce": True, "n_permutations": 130, "v": 60},
    "F": {"domain": GRID, "cluster_threshold": 3.0, "contrast": [[0, 1, 0], [0, 0, 1]]},
    "ter Braak": {"method": "ter-braak"},
    "a group of flips": {"errors": "ise", "flips": "group", "n_permutations": 512, "contrast": [1, 0, 0]},
    "an exhaustive list": {"errors": "ise", "n_permutations": 20_000, "contrast": [1, 0, 0], "n": 12},
    "variance groups": {"variance_groups": np.arange(20) % 2, "n_permutations": 70, "v": 40},
}


def study(n=20, v=300, dtype=np.float32):
    rng = np.random.default_rng(4)
    x = np.column_stack([np.ones(n), np.arange(n) % 2, rng.standard_normal(n)])
    y = rng.standard_normal((n, v)) * 10
    y[:, :20] += 15 * x[:, 1:2]
    y[:, [5, v - 1]] = 3  # constant: no statistic
    return x, y.astype(dtype)


def case(name):
    options = {"n_permutations": N, "contrast": [0, 1, 0], **CASES[name]}
    x, y = study(options.pop("n", 20), options.pop("v", 300))
    return y, x, options.pop("contrast"), options


def same_result(got, want):
    for name in ("statistic", "effect", "p", "p_fwe", "p_fdr", "tfce", "tfce_p_fwe", "cluster_labels", "df"):
        np.testing.assert_array_equal(getattr(got, name), getattr(want, name), err_msg=name)
    assert list(got.null) == list(want.null)
    for name, values in want.null.items():
        np.testing.assert_array_equal(got.null[name], values, err_msg=name)
    assert (got.cluster_table is None) == (want.cluster_table is None)
    assert want.cluster_table is None or got.cluster_table.equals(want.cluster_table)
    assert (got.n_permutations, got.exhaustive, got.n_left_out) == (
        want.n_permutations,
        want.exhaustive,
        want.n_left_out,
    )
    assert got.settings == want.settings


def cuts(n, seed, pieces=7):
    """Ranges that cover 0..n, at any places, in any order."""
    rng = np.random.default_rng(seed)
    edges = [0, *sorted(rng.choice(np.arange(1, n), pieces - 1, replace=False).tolist()), n]
    spans = list(itertools.pairwise(edges))
    return [spans[i] for i in rng.permutation(len(spans))]


@pytest.mark.parametrize("name", CASES)
def test_any_split_in_any_order_gives_the_same_result(name):
    y, x, contrast, options = case(name)
    want = permutation_test(y, x, contrast, device="cpu", **options)
    with permutation_shares(y, x, contrast, PermutationSettings(**options), "cpu") as here:
        for start, stop in cuts(here.n, seed=1, pieces=3 if "variance" in name else 7):
            here.merge([here.count(start, stop)])
        same_result(here.result(), want)


@given(seed=st.integers(0, 10_000), pieces=st.integers(2, 30))
def test_not_a_bit_depends_on_where_ranges_begin(seed, pieces):
    (y, x, contrast, options), null, counts = case("tfce"), np.full(N, np.nan), 0
    with _shared(y, x, contrast, options) as here:
        for start, stop in cuts(N, seed, pieces):
            share = here.count(start, stop)
            null[start:stop], counts = share.null["max_tfce"], counts + share.counts
    np.testing.assert_array_equal(null, _whole()[0])
    np.testing.assert_array_equal(counts, _whole()[1])


def test_shares_of_two_processes_meet_in_a_third_that_never_saw_the_data():
    y, x, contrast, options = case("tfce")
    settings = pickle.loads(pickle.dumps(PermutationSettings(**options)))
    want = permutation_test(y, x, contrast, device="cpu", **options)
    workers = [permutation_shares(y, x, contrast, settings, "cpu") for _ in range(2)]
    sent = [pickle.dumps(workers[k % 2].count(*span)) for k, span in enumerate(workers[0].left())]
    observed = pickle.loads(pickle.dumps(workers[1].observed))
    assert max(map(len, sent)) < 8 * (y.shape[1] + 3 * 64) + 2000
    planned = settings.planned(x, contrast, y.shape)
    tally = PermutationTally(planned.arrangements.n, observed.compared.size, planned.plan.null_names)
    for one in reversed(sent):
        tally.add(pickle.loads(one))
    backend = get_backends("cpu")[0]
    maker = ResultOf(backend, planned.part, planned.arrangements, planned.plan, observed, settings.describe())
    same_result(maker.all(tally.counts, tally.null, None), want)
    assert tally.left(64) == []


@pytest.mark.kernels
@pytest.mark.parametrize(
    "name", ["maxima", "clusters", "small tfce", "ter Braak", "a group of flips", "variance groups"]
)
def test_two_devices_give_the_result_of_one(standin_cuda, name):
    y, x, contrast, options = case(name)
    one = permutation_test(y, x, contrast, device="cuda:0", **options)
    seen = []
    two = permutation_test(y, x, contrast, device="cuda:0,cuda:1", progress=lambda *at: seen.append(at), **options)
    same_result(two, one)
    assert seen[-1] == (one.n_permutations, one.n_permutations)
    assert len(seen) > 1


@pytest.mark.kernels
def test_all_devices_take_part(standin_cuda, device_meter, tmp_path, monkeypatch):
    from gpuroi.inference.share_counter import ShareCounter

    y, x, contrast, options = case("clusters")
    one = permutation_test(y, x, contrast, device="cuda:1", **options)
    count, busy, both = ShareCounter.count, set(), threading.Event()

    def slowly(counter, start, stop):
        busy.add(counter.backend.device)
        if len(busy) == 2:
            both.set()
        assert both.wait(10)  # neither goes on alone
        return count(counter, start, stop)

    monkeypatch.setattr(ShareCounter, "count", slowly)
    same_result(permutation_test(y, x, contrast, device="all", scratch=tmp_path, **options), one)
    assert busy == {"cuda:0", "cuda:1"}
    assert list(tmp_path.iterdir()) == []


@pytest.mark.kernels
def test_a_device_that_does_not_count_gets_no_residuals(standin_cuda, monkeypatch):
    from gpuroi.inference.share_counter import ShareCounter

    copied = []
    on = ShareCounter.on
    monkeypatch.setattr(ShareCounter, "on", lambda self, backend: copied.append(backend.device) or on(self, backend))
    y, x, contrast, options = case("maxima")
    one = permutation_test(y, x, contrast, device="cuda:0", early_stop=10, **options)
    both = permutation_test(y, x, contrast, device="all", early_stop=10, **options)
    np.testing.assert_array_equal(both.p, one.p)
    assert copied == []
    permutation_test(y, x, contrast, device="all", **options)
    assert copied == ["cuda:1"]


@pytest.mark.kernels
def test_data_of_a_device_stay_there_and_the_other_joins(standin_cuda, standin_cupy):
    y, x, contrast, options = case("maxima")
    with standin_cupy.cuda.Device(1):
        there = standin_cupy.asarray(y)
    one = permutation_test(there, x, contrast, **options)
    same_result(permutation_test(there, x, contrast, device="all", **options), one)


@pytest.mark.kernels
def test_a_run_on_two_devices_goes_on_on_one_and_the_other_way_round(standin_cuda, monkeypatch):
    y, x, contrast, options = case("maxima")
    whole = permutation_test(y, x, contrast, device="cuda:0", **options)
    for first, then in (("all", "cuda:0"), ("cuda:0", "all")):
        states = []
        permutation_test(y, x, contrast, device=first, checkpoint=states.append, **options)
        for state in states[:-1]:
            same_result(permutation_test(y, x, contrast, device=then, resume=state, **options), whole)
    holes = states[0]
    holes.null["max_stat"][:64], holes.counts = np.nan, holes.counts - _counts_of(y, x, contrast, options, 0, 64)
    same_result(permutation_test(y, x, contrast, device="all", resume=holes, **options), whole)


@pytest.mark.kernels
def test_what_breaks_on_one_device_ends_the_run(standin_cuda, monkeypatch):
    from gpuroi.inference.share_counter import ShareCounter

    count, counted = ShareCounter.count, []

    def breaks(counter, start, stop):
        if counter.backend.device == "cuda:1":
            raise MemoryError("device is full")
        counted.append(start)
        return count(counter, start, stop)

    monkeypatch.setattr(ShareCounter, "count", breaks)
    y, x, contrast, options = case("maxima")
    with pytest.raises(MemoryError, match="device is full"):
        permutation_test(y, x, contrast, device="all", **(options | {"n_permutations": 5000}))
    assert len(counted) < 40

    def stop(state):
        raise KeyboardInterrupt

    monkeypatch.setattr(ShareCounter, "count", count)
    with pytest.raises(KeyboardInterrupt):
        permutation_test(y, x, contrast, device="all", checkpoint=stop, **options)
    assert not [t for t in threading.enumerate() if t.name.startswith("gpuroi-device")]


def test_devices_by_name(standin_cuda, monkeypatch):
    assert [b.device for b in get_backends("all")] == ["cuda:0", "cuda:1"]
    assert [b.device for b in get_backends("cuda:1, cuda:0,cuda:1")] == ["cuda:1", "cuda:0"]
    monkeypatch.setenv("GPUROI_DEVICE", "cuda:0,cuda:1")
    assert [b.device for b in get_backends()] == ["cuda:0", "cuda:1"]
    with pytest.raises(UsageError, match="several devices"):
        get_backends("cpu,cuda:0")
    with pytest.raises(DeviceError, match="cuda:7"):
        get_backends("cuda:0,cuda:7")


def test_all_is_the_cpu_where_there_is_no_cuda(monkeypatch):
    from gpuroi.backends.probe import CudaStatus

    monkeypatch.delenv("GPUROI_DEVICE", raising=False)
    monkeypatch.setattr("gpuroi.backends.probe.probe", lambda: CudaStatus(usable=False, devices=(), reason="none"))
    assert [b.device for b in get_backends("all")] == ["cpu"]


# --------------------------------------------------------------------------- the sum of shares


def share(start, stop, w=3, value=1.0):
    return PermutationShare(start, stop, np.full(w, stop - start), {"max_stat": np.full(stop - start, value)})


def test_a_tally_counts_each_rearrangement_once():
    tally = PermutationTally(10, 3, ["max_stat"])
    assert tally.left(4) == [(0, 4), (4, 8), (8, 10)]
    tally.add(share(5, 7))
    assert tally.left(4) == [(0, 4), (4, 5), (7, 8), (8, 10)]
    for wrong in (share(6, 8), share(0, 10)):
        with pytest.raises(UsageError, match="counted in already"):
            tally.add(wrong)
    for wrong in (share(8, 11), share(8, 9, w=4), share(8, 8)):
        with pytest.raises(UsageError, match="another test"):
            tally.add(wrong)
    with pytest.raises(UsageError, match="another test"):
        tally.add(PermutationShare(0, 1, np.zeros(3, int), {"max_size": np.ones(1)}))
    tally.add(share(7, 10, value=np.inf))
    tally.add(share(0, 5))
    assert (tally.done, tally.left(4), tally.counts.tolist()) == (10, [], [10, 10, 10])
    np.testing.assert_array_equal(tally.null["max_stat"], [1.0] * 7 + [np.inf] * 3)


def test_what_cannot_be_is_refused(tmp_path):
    y, x, contrast, options = case("maxima")
    with pytest.raises(OutputError, match="nowhere"):
        permutation_shares(y, x, contrast, scratch=tmp_path / "nowhere")
    with pytest.raises(DataError, match="none of the 300 elements"):
        permutation_shares(np.ones_like(y), x, contrast, device="cpu", scratch=tmp_path)
    with permutation_shares(y, x, contrast, PermutationSettings(**options), "cpu", tmp_path) as here:
        here.merge([here.count(0, 100)])
        with pytest.raises(DataError, match="200 of 300 rearrangements are not counted"):
            here.result()
        with pytest.raises(UsageError, match="299 to 301 of 300"):
            here.count(299, 301)
        assert here.left(200) == [(100, 200), (200, 300)]
    assert list(tmp_path.iterdir()) == []


# --------------------------------------------------------------------------- made once

_kept = {}


def _shared(y, x, contrast, options):
    if "shares" not in _kept:
        _kept["shares"] = permutation_shares(y, x, contrast, PermutationSettings(**options), "cpu")
    return _kept["shares"]


def _whole():
    if "whole" not in _kept:
        share = _kept["shares"].count(0, N)
        _kept["whole"] = share.null["max_tfce"], share.counts
    return _kept["whole"]


def _counts_of(y, x, contrast, options, start, stop):
    with permutation_shares(y, x, contrast, PermutationSettings(**options), "cuda:0") as here:
        return here.count(start, stop).counts
