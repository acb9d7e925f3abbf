"""The scaling page: its formulas are those of the code, its measured numbers those of the records, if there are any."""

from __future__ import annotations

import json
import pickle
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks import scaling
from gpuroi.inference import partition
from gpuroi.inference.memory import permutation_peak_bytes
from gpuroi.inference.permutation_tally import PermutationShare, PermutationTally
from gpuroi.inference.projection import Projection

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "docs"))
import scaling_tables  # noqa: E402
from scaling_tables import Machine, Problem, cpu_rates, machines, seconds, tables, with_scaling  # noqa: E402

PAGE = (ROOT / "docs" / "scaling.md").read_text(encoding="utf-8")
MACHINE = {"cpu": "Some CPU", "cores": 2, "threads": 2, "memory_gib": 8.0, "system": "Linux", "gpu": None}
KINDS = ("scaling", "workers", "large-store", "screening")


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """A folder with the one record that is always there."""
    folder = tmp_path / "results"
    folder.mkdir()
    for file in (ROOT / "benchmarks" / "results").glob("cpu-full-permutation-2*.json"):
        shutil.copy(file, folder)
    return folder


@pytest.fixture
def measured(results: Path) -> Path:
    """Every kind of record, in the form that the benchmarks write."""
    points = [
        {"statistic": name, "subjects": n, "voxels": v, "permutations": p, "seconds": 1e-3 + v * (1e-9 * n + p * work)}
        for name, work in (("glm", 0.0), ("max-T", 2e-9), ("clusters", 3e-9), ("TFCE", 5e-8))
        for n, v, p in (
            (100, 9000, 128),
            (200, 9000, 128),
            (100, 20_000, 128),
            (100, 9000, 256),
            (400, 9000, 128),
            (400, 9000, 256),
        )
        if name != "glm" or p == 128
    ]
    for point in points:
        if point["statistic"] == "glm":
            point["permutations"] = 0
        else:
            point["seconds"] += 3e-11 * point["subjects"] * point["voxels"] * point["permutations"]
    record = {"date": "2026-01-02T03:04:05+00:00", "machine": MACHINE, "command": "python -m benchmarks.made_up"}
    parts = {
        "scaling": {"points": points, "statistics": scaling.summary(points), "target": scaling.TARGET},
        "workers": {
            "settings": {"maps": 100, "voxels": 235_235, "permutations": 4096},
            "seconds": {
                "one worker": {"median": 4.25},
                "two workers": {"median": 2.5},
                "threads here": {"median": 2.0},
            },
            "speed_up_of_two_workers": 1.7,
            "same_numbers": True,
        },
        "large-store": {
            "input": {"shape": [10_000, 235_000]},
            "bytes": {"maps": 9_400_000_000},
            "fit": {"gb_per_s_of_maps": 1.23, "peak_mb": 987.6},
            "share": 0.81,
        },
        "screening": {
            "settings": {"maps": 100, "voxels": 235_235, "permutations": 1000},
            "gpuroi_s": {"command": 9.87, "with_report_and_figures": 15.4},
            "nilearn_s": {"permutations": [4, 16], "extrapolated": 3600.0},
        },
    }
    for kind, part in parts.items():
        (results / f"{kind}.json").write_text(json.dumps({"kind": kind, **record, **part}))
    return results


def plain(text: str) -> str:
    return text.replace("\N{NO-BREAK SPACE}", " ")


def test_products_of_a_rearrangement():
    n = 30
    design = np.column_stack([np.ones(n), np.arange(n) % 2, np.random.default_rng(0).normal(size=n)])
    projection = Projection.of(partition(design, [0, 1, 0]), "freedman-lane", flips=False)
    problem = Problem(n, 1000, 64)
    assert problem.products == projection.n_rows
    rows = np.tile(np.arange(1, n + 1, dtype=np.int32), (64, 1))
    assert problem.product_flops == 2 * projection.weights(rows).size * problem.voxels
    assert problem.passed_bytes == problem.map_bytes == 4 * n * 1000
    assert Problem(n, 1000, 65).passed_bytes == 2 * problem.map_bytes


@pytest.mark.parametrize("workers", [1, 8, 50])
def test_what_workers_send_is_as_large_as_its_pickles(workers):
    problem = Problem(1000, 20_000, 10_000)
    names = ["max_stat", "max_size", "max_mass", "max_tfce"]
    step = -(-problem.permutations // problem.tasks(workers) // 64) * 64
    spans = PermutationTally(problem.permutations, problem.voxels, names).left(step)
    assert len(spans) == problem.tasks(workers)
    sent = 0
    for start, stop in spans:
        null = {name: np.zeros(stop - start) for name in names}
        share = PermutationShare(start, stop, np.zeros(problem.voxels, np.int64), null)
        sent += len(pickle.dumps(share, protocol=5))
    assert problem.sent_bytes(workers) == pytest.approx(sent, rel=0.01)


def test_memory_is_that_of_the_plan():
    problem = Problem(2000, 50_000, 1000)
    whole, small = problem.plan(), problem.plan(300_000_000)
    assert whole.host_bytes >= 2 * problem.map_bytes
    assert whole.disk_bytes == 0
    assert small.host_bytes <= 300_000_000
    assert small.disk_bytes >= problem.map_bytes  # maps lie in the store anyway
    assert permutation_peak_bytes(2000, 50_000, needs_maps=True, threads=1) < whole.host_bytes


def test_seconds_are_linear_and_shared():
    machine = Machine("m", 1, 1, 1e9, 1e12, 1e11, 1e7, 1e9)
    base = Problem(1000, 100_000, 6400)
    took = seconds(base, machine)
    assert took == {
        "read": pytest.approx(2 * 0.4),
        "products": pytest.approx(max(4 * 1000 * 100_000 * 6400 / 1e12, 0.4e9 * 100 / 1e11)),
        "maps": pytest.approx(64.0),
        "sent": 0.0,
    }
    for twice in (Problem(2000, 100_000, 6400), Problem(1000, 200_000, 6400), Problem(1000, 100_000, 12_800)):
        again = seconds(twice, machine)
        assert again["products"] == pytest.approx(2 * took["products"])
        assert again["maps"] == pytest.approx(took["maps"] * (1 if twice.subjects == 2000 else 2))
    eight = seconds(base, Machine("m", 8, 1, 1e9, 1e12, 1e11, 1e7, 1e9))
    assert [eight[step] * 8 for step in ("products", "maps")] == [took[step] for step in ("products", "maps")]
    assert eight["read"] == took["read"]  # one disk


def test_page_builds_without_any_record(results, tmp_path):
    page = with_scaling(PAGE, ROOT / "docs" / "_build" / "none.png", results)
    for program in ("scaling", "workers", "large_store", "screening"):
        assert f"Not measured yet: `python -m benchmarks.{program}`" in page
        assert (ROOT / "benchmarks" / f"{program}.py").is_file()
    assert re.findall(r"<!-- scaling: (\w+) -->", page) == ["picture"]
    assert not (ROOT / "docs" / "_build" / "none.png").exists()


def test_page_shows_what_was_measured(measured, tmp_path, monkeypatch):
    monkeypatch.setattr(scaling_tables, "ROOT", tmp_path)
    picture = tmp_path / "docs" / "_build" / "scaling.png"
    page = plain(with_scaling(PAGE, picture, measured))
    assert "](_build/scaling.png)" in page
    assert picture.read_bytes()[:4] == b"\x89PNG"
    assert "Not measured" not in page
    assert "<!-- scaling" not in page
    for shown in ("| one worker | 4.25 |", "1.70 times as fast", "1.23 GB of maps a second, 81 %".replace(" %", "%"),
                  "988 MB", "9.9 s, with report and figures 15.4 s", "60 min"):  # fmt: skip
        assert shown in page, shown
    assert all(f"results/{kind}.json" in page for kind in KINDS)


def test_measured_rates_and_the_model_agree(measured):
    """The made-up times were 3e-11 s a person, voxel and permutation, and 5e-8 s a voxel and permutation of TFCE."""
    rates = cpu_rates(measured)
    assert rates.product_flops == pytest.approx(4 / 3e-11 / 2, rel=0.02)  # of a core, of two
    assert rates.map_voxels_per_s == pytest.approx(1 / 5e-8 / 2, rel=0.02)
    row = next(line for line in plain(tables(measured)["sizes"]).splitlines() if line.startswith("| TFCE"))
    expected = 230_000 * 10_000 * (5e-8 + 3e-11 * 40_000)
    assert f"{expected / 60:.0f} min" in row


def test_the_last_record_counts(measured):
    other = json.loads((measured / "workers.json").read_text())
    other |= {"date": "2026-01-03T00:00:00+00:00", "speed_up_of_two_workers": 1.9}
    (measured / "a-newer-one.json").write_text(json.dumps(other))
    assert "1.90 times" in tables(measured)["machines"]


def test_predictions_add_up(results):
    table = plain(tables(results)["predictions"]).splitlines()[2:]
    found = machines(cpu_rates(results))
    assert [line.split(" | ")[0].strip("| ") for line in table] == [machine.name for machine in found]
    problem = Problem(40_000, 230_000, 10_000)
    for line, machine in zip(table, found, strict=True):
        together = sum(seconds(problem, machine).values())
        assert re.search(r"\*\*(.*)\*\*", line)[1] in (f"{together:.0f} s", f"{together / 60:.1f} min")
    plan = problem.plan()
    assert plan.host_bytes == pytest.approx(2 * problem.map_bytes, rel=0.15)
    assert "40 GB" in PAGE
    assert round(permutation_peak_bytes(40_000, 230_000, needs_maps=True, threads=1) / 1e9) == 40
    assert f"({2 * problem.map_bytes / 1e9:.0f} GB)" in PAGE
