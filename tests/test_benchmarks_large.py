"""The benchmarks of large cohorts run once, tiny, and their arithmetic is right."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks import large_store, scaling, screening

RESULTS = Path(__file__).resolve().parents[1] / "benchmarks" / "results"


def test_a_store_is_made_fitted_measured_and_removed(tmp_path):
    pytest.importorskip("zarr")
    found = large_store.measure(200, 1500, tmp_path)
    assert found["bytes"]["maps"] == 4 * 200 * 1500
    assert 0.8 < found["bytes"]["on_disk"] / found["bytes"]["maps"] < 1.3  # noise; the last rows of the chunks are full
    assert found["error"]["largest"] < large_store.GOAL_ERROR
    assert found["fit"]["peak_mb"] >= found["fit"]["peak_mb_before"] > 0
    assert len(found["fit"]["seconds"]) == len(found["read"]["seconds"]) == 3
    assert list(tmp_path.iterdir()) == []


def test_a_disk_without_room_is_refused(tmp_path, capsys):
    with pytest.raises(SystemExit) as caught:
        large_store.measure(10**9, 10**6, tmp_path)
    assert caught.value.code == 73
    assert "GB are needed" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_missed_goals_are_told():
    good = {"share": 0.71, "fit": {"peak_mb": 900.0}, "error": {"largest": 1e-7}}
    assert large_store.flawed(good) == []
    bad = {"share": 0.5, "fit": {"peak_mb": 2500.0}, "error": {"largest": 1e-3}}
    assert len(large_store.flawed(bad)) == 3


def made_up(seconds):
    """Points as `measure` gives them, with seconds by a formula."""
    base = (100, 1000, 64)
    sizes = {base, *((n, *base[1:]) for n in (200, 400)), *((100, v, 64) for v in (2000, 4000)), (100, 1000, 256)}
    return [
        {"statistic": "max-T", "subjects": n, "voxels": v, "permutations": k, "seconds": seconds(n, v, k)}
        for n, v, k in sorted(sizes)
    ]


def test_the_model_finds_the_terms_that_are_there():
    points = made_up(lambda n, v, k: 0.1 + 1e-7 * n * v + k * v * (1e-8 + 1e-9 * n))
    found = scaling.summary(points)["max-T"]
    a, b, c, d, e = found["model"].values()
    np.testing.assert_allclose([a, c, d, e], [0.1, 1e-7, 1e-8, 1e-9], rtol=1e-6)
    assert b < 1e-12
    assert found["model_off_by_at_most"] == 0
    n, v, k = scaling.TARGET.values()
    assert found["target_s"] == pytest.approx(0.1 + 1e-7 * n * v + k * v * (1e-8 + 1e-9 * n), rel=1e-6)


def test_exponents_are_slopes_of_what_alone_grows():
    found = scaling.summary(made_up(lambda n, v, k: 1e-9 * n * v**1.5 * k**0.5))["max-T"]["exponents"]
    assert found == {"subjects": 1.0, "voxels": 1.5, "permutations": 0.5}


def test_sizes_are_measured_and_drawn(tmp_path):
    out, picture = tmp_path / "scaling.json", tmp_path / "scaling.png"
    assert scaling.main(["--tiny", "--out", str(out), "--picture", str(picture), "--commit", "none"]) == 0
    record = json.loads(out.read_text())
    assert set(record["statistics"]) == {"glm", "max-T", "clusters", "TFCE"}
    assert all(point["seconds"] > 0 for point in record["points"])
    first = picture.read_bytes()
    assert first.startswith(b"\x89PNG")
    assert scaling.main(["--draw", str(out), "--picture", str(picture)]) == 0
    assert picture.read_bytes() == first


def test_committed_results_are_right_and_within_memory():
    for path in RESULTS.glob("large-store-*.json"):
        record = json.loads(path.read_text())
        # The rate is measured, not asserted: the goal of 70 % of the disk's depends on disk and processors.
        assert [problem for problem in large_store.flawed(record) if "rate of reading" not in problem] == [], path
    for path in RESULTS.glob("scaling-*.json"):
        record = json.loads(path.read_text())
        for name, found in scaling.summary(record["points"]).items():
            assert record["statistics"][name]["exponents"] == found["exponents"], path
            assert record["statistics"][name]["target_s"] == pytest.approx(found["target_s"], rel=1e-3), path


def test_whole_screenings_run(capsys):
    assert screening.main(["--tiny"]) == 0
    assert "times longer" in capsys.readouterr().out


def test_workers_give_the_same_numbers(capsys):
    pytest.importorskip("distributed", reason="Dask is not installed")
    from benchmarks import workers

    assert workers.main(["--tiny"]) == 0
    assert "two workers are" in capsys.readouterr().out
