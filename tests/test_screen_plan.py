"""What a plan says is what a screening takes: bytes, seconds, files."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from gpuroi.backends.memory import parse_bytes
from gpuroi.cohort import read_maps
from gpuroi.errors import UsageError
from gpuroi.workflows.screen_plan import ScreenPlan, plan_screen

SIDE, N = 44, 110  # 74 088 voxels within the border: a matrix of 33 MB in float32

# A screening of made-up maps as planned, in a process of its own; all is compiled and imported when it is measured.
MEASURED = """
import ctypes, json, sys, tempfile, time
from pathlib import Path
from types import SimpleNamespace
import nibabel
import numpy as np
from gpuroi.cohort import read_maps
from gpuroi.inference import glm, permutation_test
from gpuroi.workflows.screen_plan import plan_screen

asked = json.loads(sys.argv[1])
n, side, dtype, limit = asked["n"], asked["side"], asked["dtype"], asked["limit"]
how = {"n_contrasts": 2, "n_products": 4, "n_permutations": asked["k"], "device": "cpu", "stored_dtype": dtype,
       "cluster": asked["maps"], "tfce": asked["maps"], "as_z": asked["maps"], "figures": False}

def status(key):
    line = next(line for line in open("/proc/self/status") if line.startswith(key))
    return int(line.split()[1]) * 1024

def cohort(folder, n, side):
    rng = np.random.default_rng(0)
    maps = [Path(folder, f"{i}.nii") for i in range(n)]
    for path in maps:
        values = (20 * rng.standard_normal((side,) * 3)).astype(dtype)
        nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), path)
    mask = np.zeros((side,) * 3, np.uint8)
    mask[1:-1, 1:-1, 1:-1] = 1
    nibabel.save(nibabel.Nifti1Image(mask, np.eye(4)), Path(folder, "mask.nii"))
    return SimpleNamespace(ids=[str(i) for i in range(n)], maps=maps), Path(folder, "mask.nii")

def screen(people, mask, maps_limit, residuals_in_memory, scratch):
    maps = read_maps(people, mask, memory_limit=maps_limit, scratch=scratch)
    n = len(people.ids)
    rng = np.random.default_rng(1)
    design = np.column_stack([np.ones(n), np.arange(n) % 2, rng.standard_normal((n, 2))])
    contrasts = {"group": np.eye(4)[1], "age": np.eye(4)[2]}
    kept = [glm(maps.data, design, contrasts, device="cpu")]
    for contrast in contrasts.values():
        kept.append(permutation_test(maps.data, design, contrast, domain=maps.mask, n_permutations=asked["k"],
                                     cluster_threshold=3.0 if asked["maps"] else None, tfce=asked["maps"],
                                     cluster_scale="z" if asked["maps"] else "t", device="cpu",
                                     scratch=None if residuals_in_memory else scratch))
    return kept, isinstance(maps.data, np.ndarray)

with tempfile.TemporaryDirectory() as small, tempfile.TemporaryDirectory() as large:
    people, mask = cohort(small, 12, 8)
    screen(people, mask, 10**8, True, small)
    screen(people, mask, 10**5, False, small)
    people, mask = cohort(large, n, side)
    plan = plan_screen(n, (side - 2) ** 3, shape=(side,) * 3, memory_limit=limit, **how)
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # the largest size so far is the present one
    before, began = status("VmRSS"), time.perf_counter()
    kept, in_memory = screen(people, mask, plan.maps_limit, plan.residuals_in_memory, large)
    seconds, taken = time.perf_counter() - began, status("VmHWM") - before
assert in_memory == plan.maps_in_memory
print(json.dumps({"taken": taken, "seconds": seconds, "said": plan.host_bytes, "said_seconds": plan.seconds,
                  "maps": plan.maps_in_memory, "residuals": plan.residuals_in_memory}))
"""


def measured(**asked: object) -> dict[str, float]:
    asked = {"n": N, "side": SIDE, "dtype": "float32", "limit": None, "maps": False, "k": 128} | asked
    done = subprocess.run([sys.executable, "-c", MEASURED, json.dumps(asked)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found: dict[str, float] = json.loads(done.stdout)
    return found


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the peak is read from /proc, of Linux")
@pytest.mark.parametrize(
    ("asked", "maps", "residuals"),
    [
        ({}, True, True),
        ({"maps": True}, True, True),
        ({"limit": "85MB"}, False, True),
        ({"limit": "52MB"}, False, False),
        ({"dtype": "int16"}, True, True),
    ],
)
def test_memory_is_what_was_said(asked, maps, residuals):
    taken = 0.0
    for _ in range(3):  # threads do not have their peaks at the same moment in every run
        found = measured(**asked)
        taken = max(taken, found["taken"])
        assert (found["maps"], found["residuals"]) == (maps, residuals)
        assert taken <= found["said"], found
        if found["said"] <= 1.25 * taken:  # 1.2 on an idle machine; a busy one reads less ahead
            return
    pytest.fail(f"{found['said']:,} bytes were said, {taken:,.0f} taken at most")


def test_time_is_what_was_said_within_a_factor_of_two():
    """On a machine that does other things too: one of three has to be right."""
    ratios = []
    for _ in range(3):
        found = measured(maps=True, k=512, side=32, n=60)
        ratios.append(found["said_seconds"] / found["seconds"])
        if 0.5 <= ratios[-1] <= 2:
            break
    assert 0.5 <= ratios[-1] <= 2, ratios


# --------------------------------------------------------------------------- decisions


def plan(limit: str | None = "8GB", **options: object) -> ScreenPlan:
    how = {"shape": (91, 109, 91), "n_permutations": 0, "device": "cpu", "n_jobs": 2, "figures": False}
    return plan_screen(200, 235_000, memory_limit=limit, **(how | options))


@pytest.fixture(autouse=True)
def no_timing(request, monkeypatch):
    """Timed runs are tested by themselves."""
    if "timed" not in request.node.name:
        monkeypatch.setattr("gpuroi.workflows.screen_plan.seconds_of", lambda _work: 6.0)


class TestWhereThingsLie:
    def test_the_fastest_way_that_fits(self):
        ways = []
        for megabytes in range(100, 700, 5):
            try:
                found = plan(f"{megabytes}MB", n_permutations=1000)
            except UsageError:
                continue
            assert found.host_bytes <= megabytes * 10**6
            ways.append((found.maps_in_memory, found.residuals_in_memory))
        by_speed = [(False, False), (True, False), (False, True), (True, True)]  # more memory makes nothing slower
        assert list(dict.fromkeys(ways)) == by_speed

    def test_integers_take_half_the_room_until_they_are_floats(self):
        assert plan(stored_dtype=np.int16).disk_bytes == 0
        assert plan("300MB", stored_dtype=np.int16, n_permutations=100).disk_bytes >= 2 * 200 * 235_000

    def test_what_lies_on_disk(self):
        found = plan("200MB", n_permutations=1000)
        assert found.disk_bytes == 2 * 4 * 200 * 235_000
        assert plan("200MB", n_permutations=1000, from_store=True).disk_bytes == 4 * 200 * 235_000
        assert plan("200MB", n_permutations=1000, some_left_out=True).disk_bytes == 3 * 4 * 200 * 235_000

    def test_more_of_anything_takes_no_less(self):
        least = plan(n_permutations=100).host_bytes
        for more in ({"cluster": True}, {"n_contrasts": 5}, {"n_products": 30}, {"n_jobs": 8}, {"stored_dtype": "f8"}):
            assert plan(n_permutations=100, **more).host_bytes >= least, more

    def test_a_limit_that_holds_nothing_is_refused_with_what_is_needed(self):
        with pytest.raises(UsageError, match=r"needs at least (\d+ MB) of memory .*; the limit is 20 MB") as e:
            plan("20MB", n_permutations=1000)
        assert e.value.exit_code == 2
        assert "--memory-limit" in e.value.hint
        needed = parse_bytes(e.value.message.split("at least ")[1].split(" of")[0].replace(" ", ""))
        assert plan(needed + 10**6, n_permutations=1000).host_bytes <= needed + 10**6

    def test_variance_groups_hold_the_residuals_in_memory(self):
        with pytest.raises(UsageError, match="needs at least"):
            plan("200MB", n_permutations=1000, n_variance_groups=2)

    def test_the_readers_do_as_planned(self, tmp_path):
        import nibabel

        rng = np.random.default_rng(0)
        paths = [tmp_path / f"{i}.nii" for i in range(40)]
        for path in paths:
            nibabel.save(nibabel.Nifti1Image(rng.standard_normal((20, 20, 20)).astype("f4"), np.eye(4)), path)
        people = SimpleNamespace(ids=[path.stem for path in paths], maps=paths)
        mask = nibabel.Nifti1Image(np.ones((20, 20, 20), np.uint8), np.eye(4))
        seen = set()
        for limit in range(3000, 9000, 200):
            try:
                found = plan_screen(
                    40, 8000, shape=(20, 20, 20), n_permutations=0, n_jobs=1, memory_limit=1000 * limit, device="cpu"
                )
            except UsageError:
                continue
            maps = read_maps(people, mask, memory_limit=found.maps_limit, scratch=tmp_path, threads=1)
            assert isinstance(maps.data, np.ndarray) == found.maps_in_memory
            seen.add(found.maps_in_memory)
        assert seen == {True, False}

    @pytest.mark.kernels
    def test_on_a_device(self, standin_cuda):
        found = plan(device="cuda", n_permutations=100)  # of 1 GiB: matrix and residuals take 380 MB
        assert found.device == "cuda"
        assert 2 * 4 * 200 * 235_000 <= found.device_bytes <= 1 << 30
        assert dict(found.facts)["memory"].startswith("host ")
        assert "cuda 0." in dict(found.facts)["memory"]

    @pytest.mark.parametrize("options", [{"n_contrasts": 0}, {"n_products": 0}])
    def test_sizes_below_one(self, options):
        with pytest.raises(UsageError, match="below 1"):
            plan(**options)


class TestFacts:
    def test_the_lines_of_a_dry_run(self):
        found = plan_screen(
            59, 46_812, shape=(61, 73, 61), n_contrasts=2, n_products=4, cluster=True, device="cpu",
            memory_limit="1GB", n_jobs=2, figures=False, out="out/",
        )  # fmt: skip
        lines = dict(found.facts)
        assert lines["would fit"] == "59 x 46,812 (11 MB float32)   device cpu, 1 block, batch 64"
        assert lines["memory"].endswith("MiB   time ~6 s (calibrated)   smallest p 0.0002")
        assert lines["would write"].startswith("61 files, ")
        assert lines["would write"].endswith(" MB under out/")

    def test_what_lies_on_disk_is_said(self):
        found = plan("200MB", n_permutations=1000)
        lines = dict(found.facts)
        assert f"{found.blocks} blocks" in lines["would fit"]
        assert "scratch files 376 MB" in lines["memory"]

    def test_without_permutations_there_is_no_smallest_p(self):
        assert "smallest p" not in dict(plan().facts)["memory"]

    def test_without_timing_there_is_no_time(self, monkeypatch):
        monkeypatch.setattr("gpuroi.workflows.screen_plan.seconds_of", None)
        found = plan(timed=False, figures=True)
        assert found.seconds is None
        assert "time" not in dict(found.facts)["memory"]

    def test_a_timed_plan_takes_a_moment(self, monkeypatch):
        found = []
        for _ in range(3):  # the first one may compile; others may be at work
            began = time.perf_counter()
            plan_screen(500, 100_000, shape=(60, 60, 60), cluster=True, tfce=True, device="cpu", memory_limit="2GB")
            found.append(time.perf_counter() - began)
            if found[-1] < 2:
                break
        assert min(found) < 4  # a second where nobody else computes

    def test_a_timed_plan_leaves_no_trace(self, caplog, tmp_path):
        found = plan_screen(
            20, 3000, shape=(20, 20, 20), n_permutations=500, device="cpu", memory_limit="9MB", scratch=tmp_path
        )
        assert found.seconds
        assert caplog.text == ""
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize("n", [3, 5, 20_000])
    def test_a_timed_plan_of_any_size(self, n):
        found = plan_screen(
            n,
            230_000,
            shape=(91, 109, 91),
            cluster=True,
            n_products=1,
            device="cpu",
            memory_limit="2GB",
            from_store=True,
        )
        assert found.seconds
        assert found.seconds < 10**6
        assert found.host_bytes <= 2 * 10**9

    def test_a_timed_plan_with_variance_groups(self):
        options = {
            "shape": (20, 20, 20),
            "n_permutations": 500,
            "device": "cpu",
            "memory_limit": "1GB",
            "figures": False,
        }
        plain, grouped = (plan_screen(40, 5000, n_variance_groups=groups, **options).seconds for groups in (1, 2))
        assert plain
        assert grouped
        assert grouped > plain
