"""`gpuroi.screen`: its statistics against the array functions and SciPy, its clusters and means against other tools."""

from __future__ import annotations

import json
import os
import tomllib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import ndimage, stats
from screen_cohorts import SHAPE, N, maps_of, result_bytes, save_table, volume, write_cohort, write_image

from gpuroi import pack, screen
from gpuroi.cohort.bad_inputs import BadInputsError
from gpuroi.cohort.maps import _ScratchMatrix
from gpuroi.errors import DataError, GridError, UsageError
from gpuroi.inference import fdr, permutation_test
from gpuroi.workflows.screen_settings import ScreenSettings, read_permutations

FORMULA = "map ~ group + age"
QUICK = {"formula": FORMULA, "mask": "mask.nii.gz", "n_permutations": 100, "device": "cpu"}


@pytest.fixture
def cohort(here) -> pd.DataFrame:
    return write_cohort()


def run(**options):
    return screen("participants.tsv", **{**QUICK, **options})


# ---------------------------------------------------------------------- statistics


def test_t_is_that_of_scipy_and_p_those_of_the_array_function(cohort):
    result = run(contrasts=["patient=group[T.patient]"], cluster_p=0.01, tfce=True)
    one = result.contrasts["patient"]
    inside = result.mask.mask
    data = maps_of(cohort)[:, inside]
    design = np.column_stack([np.ones(N), cohort["group"] == "patient", cohort["age"]]).astype(float)
    beta, *_ = np.linalg.lstsq(design, data, rcond=None)
    mse = ((data - design @ beta) ** 2).sum(0) / (N - 3)
    variance = mse * np.linalg.inv(design.T @ design)[1, 1]
    np.testing.assert_allclose(one.glm.effect, beta[1], rtol=2e-5, atol=1e-6)
    np.testing.assert_allclose(one.glm.statistic, beta[1] / np.sqrt(variance), rtol=2e-5, atol=1e-6)
    np.testing.assert_allclose(one.glm.p, 2 * stats.t.sf(np.abs(one.glm.statistic), N - 3), rtol=1e-5)
    direct = permutation_test(
        data.astype(np.float32), design, [0, 1, 0], domain=result.mask.with_connectivity(6), n_permutations=100,
        cluster_threshold=stats.t.isf(0.005, N - 3), tfce=True, device="cpu",
    )  # fmt: skip
    assert one.threshold == pytest.approx(stats.t.isf(0.005, N - 3))
    np.testing.assert_array_equal(one.permutation.p_fwe, direct.p_fwe)
    np.testing.assert_array_equal(one.permutation.tfce_p_fwe, direct.tfce_p_fwe)
    for name, values in direct.null.items():
        np.testing.assert_array_equal(one.permutation.null[name], values)


@pytest.mark.parametrize(
    ("options", "kind", "want"),
    [
        ({}, "t", stats.t.isf(0.0005, 25)),
        ({"two_sided": False}, "t", stats.t.isf(0.001, 25)),
        ({"cluster_scale": "z"}, "t", stats.norm.isf(0.0005)),
        ({"cluster_scale": "z", "two_sided": False}, "t", stats.norm.isf(0.001)),
        ({}, "F", stats.f.isf(0.001, 3, 25)),
        ({"cluster_scale": "z"}, "F", stats.norm.isf(0.001)),
        ({"variance_groups": "group"}, "t", stats.norm.isf(0.0005)),
    ],
)
def test_cluster_p_becomes_a_threshold_on_the_scale_of_the_clusters(options, kind, want):
    settings = ScreenSettings("x.tsv", formula="map ~ age", cluster_p=0.001, **options)
    assert settings.threshold(kind, 3, 25.0) == pytest.approx(want, rel=1e-12)


def test_without_contrasts_every_term_is_tested(cohort):
    cohort["site"] = [["a", "b", "c"][k % 3] for k in range(N)]
    save_table(cohort)
    result = run(formula="map ~ group + age + site", n_permutations=0)
    kinds = {name: (one.glm.kind, one.label) for name, one in result.contrasts.items()}
    assert kinds == {"group": ("t", "group"), "age": ("t", "age"), "site": ("F", "site")}
    assert "none given" in dict(result.facts)["contrasts"]


def test_without_terms_the_mean_is_tested_by_sign_flips(cohort):
    with pytest.raises(DataError, match="constant"):
        run(formula="map ~ 1")
    result = run(formula="map ~ 1", errors="ise")
    data = maps_of(cohort)[:, result.mask.mask]
    want = stats.ttest_1samp(data, 0)
    np.testing.assert_allclose(result.contrasts["Intercept"].glm.statistic, want.statistic, rtol=2e-5, atol=1e-6)


def test_f_variance_groups_and_tails(cohort):
    result = run(contrasts=["both=group[T.patient]; age"], variance_groups="group", cluster_p=0.01)
    one = result.contrasts["both"]
    assert one.glm.kind == "G"
    assert one.threshold == pytest.approx(stats.norm.isf(0.01))
    saved = result.save("out", figures=False)
    assert volume(saved / "contrast-both_stat-effect_statmap.nii.gz").shape == (*SHAPE, 2)
    assert not json.loads((saved / "contrast-both_stat-G_statmap.json").read_text())["TwoSided"]
    welch = run(formula="map ~ group", contrasts=["group=group[T.patient]"], variance_groups="group", n_permutations=0)
    groups = maps_of(cohort)[:, welch.mask.mask]
    patients = (cohort["group"] == "patient").to_numpy()
    want = stats.ttest_ind(groups[patients], groups[~patients], equal_var=False)
    np.testing.assert_allclose(welch.contrasts["group"].glm.statistic, want.statistic, rtol=2e-5, atol=1e-6)
    np.testing.assert_allclose(welch.contrasts["group"].glm.p, want.pvalue, rtol=1e-4)
    tail = run(contrasts=["age"], tail="gpd").contrasts["age"].permutation
    assert tail.p_fwe.min() < 1 / 100


# ---------------------------------------------------------------------- clusters and means


def test_clusters_above_the_threshold_are_those_of_scipy(cohort):
    one = run(contrasts=["age"], cluster_threshold=3.0, connectivity=18).contrasts["age"]
    t = np.zeros(SHAPE)
    t[volume("mask.nii.gz") > 0] = one.glm.statistic
    structure = ndimage.generate_binary_structure(3, 2)
    sizes, peaks = [], []
    for sign in (1, -1):
        labels, n = ndimage.label(sign * t > 3.0, structure)
        found = [(int((labels == i).sum()), np.abs(t[labels == i]).max() * sign) for i in range(1, n + 1)]
        found.sort(key=lambda one: -abs(one[1]))
        sizes += [size for size, _ in found]
        peaks += [peak for _, peak in found]
    table = one.clusters
    assert table["Voxels"].tolist() == sizes
    np.testing.assert_allclose(table["Peak Stat"], peaks)
    assert table["Cluster ID"].tolist() == list(range(1, len(sizes) + 1))
    assert table["Sign"].tolist() == [int(np.sign(peak)) for peak in peaks]
    np.testing.assert_allclose(table["Cluster Size (mm3)"], np.array(sizes) * 31.5)
    assert table["p_size_FWE"].min() == pytest.approx(0.01)
    for _, row in table.iterrows():
        at = one.labels == row["Cluster ID"]
        assert at.sum() == row["Voxels"]
        voxel = np.linalg.solve(
            np.array([[-3.0, 0, 0, 20], [0, 3, 0, -15], [0, 0, 3.5, -10], [0, 0, 0, 1]]),
            [row["X"], row["Y"], row["Z"], 1],
        )
        assert t[tuple(np.rint(voxel[:3]).astype(int))] == row["Peak Stat"]


@pytest.mark.parametrize(
    ("options", "file", "word"),
    [
        ({}, "voxelFWE", "voxel"),
        ({"tfce": True}, "tfceFWE", "TFCE"),
        ({"n_permutations": 0}, "FDR", "FDR"),
    ],
)
def test_without_a_threshold_clusters_are_of_significant_voxels(cohort, options, file, word):
    result = run(contrasts=["age"], **options)
    folder = result.save("out", figures=False)
    one = result.contrasts["age"]
    assert word in one.rule
    assert word in json.loads((folder / "contrast-age_clusters.json").read_text())["Rule"]
    significant = volume(folder / f"contrast-age_stat-logp_desc-{file}_statmap.nii.gz") >= -np.log10(0.05) - 1e-6
    np.testing.assert_array_equal(one.labels > 0, significant)
    _, n = ndimage.label(significant & (volume(folder / "contrast-age_stat-t_statmap.nii.gz") < 0))
    assert (one.clusters["Sign"] == -1).sum() == n > 0
    assert one.clusters[["p_size_FWE", "p_mass_FWE"]].isna().all(axis=None)
    if "n_permutations" in options:
        np.testing.assert_array_equal(significant[result.mask.mask], fdr(one.glm.p) <= 0.05)
        assert not (folder / "contrast-age_null.tsv").exists()


def test_means_over_clusters_and_regions(cohort):
    result = run(contrasts=["age"], cluster_threshold=3.0, atlas="atlas_dseg.nii.gz")
    data, inside = maps_of(cohort), volume("mask.nii.gz") > 0
    one = result.contrasts["age"]
    for number in one.clusters["Cluster ID"]:
        want = data[:, one.labels == number].mean(axis=1)
        np.testing.assert_allclose(one.cluster_means[f"cluster-{number}"], want, rtol=1e-6, atol=1e-7)
    assert result.roi_means.columns.tolist() == ["participant_id", "Back", "Front", "Outside"]
    atlas = volume("atlas_dseg.nii.gz")
    for name, number in (("Back", 400), ("Front", 7)):
        want = data[:, (atlas == number) & inside].mean(axis=1)
        np.testing.assert_allclose(result.roi_means[name], want, rtol=1e-6, atol=1e-7)
    assert result.roi_means["Outside"].isna().all()  # its voxels are not in the mask
    assert set(one.clusters["Peak Label"]) <= {"Back", "Front"}
    assert result.save("out", figures=False).joinpath("roi_means.tsv").read_text().splitlines()[1].endswith("\tn/a")


@pytest.mark.parametrize("options", [{"cluster_p": 0.01}, {"tfce": True}])
def test_an_effect_that_fits_exactly_has_its_cluster_and_its_place(cohort, options):
    """As where a lesion is in all patients and in no control: no residual variance, and the largest of all t."""
    group = (cohort["group"] == "patient").to_numpy(np.float32)
    for path, value in zip(cohort["map"], group, strict=True):
        data = volume(path).astype(np.float32)
        data[3:5, 8:10, 8:10] = value
        write_image(path, data)
    result = run(formula="map ~ group", **options)
    one = result.contrasts["group"]
    row = one.clusters.iloc[0]
    assert (row["p_peak_FWE"], row["Voxels"] >= 8) == (0.01, True)
    place = np.linalg.inv(result.affine) @ [row["X"], row["Y"], row["Z"], 1]
    x, y, z = np.rint(place[:3]).astype(int)
    assert (3 <= x < 5, 8 <= y < 10, 8 <= z < 10) == (True, True, True)
    assert "largest t is" in result.report()


def test_a_formula_and_a_contrast_by_position_and_what_the_result_says_of_itself(cohort):
    result = screen(
        "participants.tsv", "map ~ age", "age", **{k: v for k, v in QUICK.items() if k not in ("formula", "contrasts")}
    )
    assert list(result.contrasts) == ["age"]
    assert repr(result).splitlines() == ["ScreenResult", *result.text.splitlines()]
    assert "largest |t|" in repr(result)


def test_nothing_found_is_a_result(cohort):
    for path in cohort["map"]:
        write_image(path, np.random.default_rng(len(path) + hash(path) % 7).normal(size=SHAPE).astype(np.float32))
    result = run(contrasts=["score"], formula="map ~ score", cluster_threshold=50.0)
    folder = result.save("out", figures=False)
    assert len(result.contrasts["score"].clusters) == 0
    assert len(pd.read_csv(folder / "contrast-score_clusters.tsv", sep="\t")) == 0
    assert pd.read_csv(folder / "contrast-score_desc-clusters_means.tsv", sep="\t").shape == (N, 1)
    assert not volume(folder / "contrast-score_desc-clusters_dseg.nii.gz").any()
    assert "no cluster" in dict(result.facts)["score"]


def test_one_name_needs_no_list_and_a_missing_mask_is_said(cohort):
    alone = run(contrasts="age", blocks="group", mask=None, n_permutations=20)
    listed = run(contrasts=["age"], blocks=["group"], mask=None, n_permutations=20)
    assert list(alone.contrasts) == ["age"]
    np.testing.assert_array_equal(alone.contrasts["age"].permutation.p_fwe, listed.contrasts["age"].permutation.p_fwe)
    assert any(text.startswith("no mask") for text in alone.warnings)
    assert not any(text.startswith("no mask") for text in run(contrasts="age", n_permutations=0).warnings)


def test_what_was_largest_is_on_the_side_that_was_tested(cohort):
    """Age makes values fall: its largest |t| says nothing of a test of positive values."""
    t = run(contrasts=["age"], n_permutations=0).contrasts["age"].glm.statistic
    facts = dict(run(contrasts=["age"], two_sided=False, n_permutations=20, cluster_p=0.01).facts)
    assert -np.nanmin(t) > np.nanmax(t)
    assert facts["age"].startswith(f"largest t {np.nanmax(t):.4g};")
    facts = dict(run(contrasts=["age"], n_permutations=20, tfce=True).facts)
    assert facts["age"].startswith(f"largest |t| {-np.nanmin(t):.4g};")
    assert "of voxels with TFCE FWE p <= 0.05" in facts["age"]


# ---------------------------------------------------------------------- missing data


def punch_holes(cohort: pd.DataFrame) -> np.ndarray:
    """NaN at a few voxels of a few maps: one that two maps lack, one that half of them lack."""
    data = maps_of(cohort).astype(np.float32)
    data[[3, 4], 5, 5, 5] = np.nan
    data[::2, 6, 6, 6] = np.nan
    for path, values in zip(cohort["map"], data, strict=True):
        write_image(path, values)
    return data


@pytest.mark.parametrize(("rule", "kept"), [("drop-voxel", 0), ("mean", 1), ("pattern", 1)])
def test_voxels_that_some_maps_lack(cohort, rule, kept):
    data = punch_holes(cohort)
    result = run(contrasts=["age"], missing_data=rule)
    searched = int((volume("mask.nii.gz") > 0).sum())
    assert result.mask.n_elements == searched - 2 + kept
    folder = result.save("out", figures=False)
    n_map = volume(folder / "stat-n_statmap.nii.gz")
    assert (n_map[5, 5, 5], n_map[6, 6, 6], n_map[1, 1, 1], n_map[0, 0, 0]) == (N - 2, N // 2, N, 0)
    at = volume(folder / "contrast-age_stat-t_statmap.nii.gz")[5, 5, 5]
    if rule == "pattern":
        there = np.isfinite(data[:, 5, 5, 5])
        design = np.column_stack([np.ones(N), cohort["group"] == "patient", cohort["age"]]).astype(float)[there]
        y = data[there, 5, 5, 5].astype(float)
        beta, rest, *_ = np.linalg.lstsq(design, y, rcond=None)
        se = np.sqrt(rest[0] / (there.sum() - 3) * np.linalg.inv(design.T @ design)[2, 2])
        assert at == pytest.approx(beta[2] / se, rel=1e-4)
        assert any("parametric p alone" in text for text in result.warnings)
    else:
        assert (at != 0) == bool(kept)


def test_people_without_a_covariate_are_left_out_and_listed(cohort):
    cohort["age"] = cohort["age"].astype(object)
    cohort.loc[3, "age"] = None
    cohort.loc[5, "family"] = None
    save_table(cohort)
    result = run(contrasts=["age"], blocks=["family"])
    folder = result.save("out", figures=False)
    excluded = pd.read_csv(folder / "excluded.tsv", sep="\t", dtype=str)
    assert excluded.to_numpy().tolist() == [
        ["03", "missing covariate", "age"], ["05", "missing covariate", "family"]
    ]  # fmt: skip
    used = pd.read_csv(folder / "participants_used.tsv", sep="\t", dtype=str)
    assert used["participant_id"].tolist() == [f"{k:02d}" for k in range(N) if k not in (3, 5)]
    assert pd.read_csv(folder / "design.tsv", sep="\t", dtype=str)["participant_id"].equals(used["participant_id"])
    assert used["map_sha256"].str.fullmatch("[0-9a-f]{64}").all()
    with pytest.raises(BadInputsError, match=r"(?s)03.*no value of age.*05.*no value of family"):
        run(contrasts=["age"], blocks=["family"], missing="error")


# ---------------------------------------------------------------------- the same numbers


def test_memory_store_and_threads_change_no_byte(cohort, monkeypatch):
    punch_holes(cohort)
    options = {
        "contrasts": ["age", "group=group[T.patient]"],
        "cluster_p": 0.01,
        "tfce": True,
        "atlas": "atlas_dseg.nii.gz",
    }
    run(**options).save("large", figures=False)
    want = result_bytes("large")
    assert len(want) > 40
    run(**options, memory_limit="400MB", n_jobs=1).save("small", figures=False)
    assert result_bytes("small") == want
    pack("participants.tsv", mask="mask.nii.gz", out="cohort.zarr")
    run(**options, data="cohort.zarr", mask=None).save("store", figures=False)
    monkeypatch.setattr("gpuroi.workflows.screen_plan._where", lambda *_: (False, False))  # all of it on disk
    read = []
    monkeypatch.setattr("gpuroi.cohort.maps._ScratchMatrix.write_rows", _spied(_ScratchMatrix.write_rows, read))
    run(**options).save("disk", figures=False)
    assert read
    assert result_bytes("disk") == want
    run(**options, data="cohort.zarr", mask=None).save("stored", figures=False)
    for name in ("store", "stored"):
        found = result_bytes(name)
        tables = [file for file in want if file.endswith(".tsv") and not file.startswith("participants")]
        assert [file for file in tables if found[file] != want[file]] == []
        for file in (file for file in want if file.endswith(".nii.gz")):
            np.testing.assert_array_equal(volume(f"{name}/{file}"), volume(f"large/{file}"))


def _spied(function, calls: list):
    def spy(*args):
        calls.append(args)
        return function(*args)

    return spy


@pytest.mark.kernels
@pytest.mark.parametrize("device", ["cuda", "all"])
def test_the_device_gives_the_same_p_values(cohort, standin_cuda, device):
    options = {"contrasts": ["age", "both=group[T.patient]; age"], "n_permutations": 20, "cluster_p": 0.01}
    ours, theirs = run(**options), run(**{**options, "device": device})
    assert theirs.device.startswith("cuda")
    for name, one in ours.contrasts.items():
        other = theirs.contrasts[name]
        np.testing.assert_allclose(other.glm.statistic, one.glm.statistic, rtol=1e-4, atol=1e-5)
        np.testing.assert_array_equal(other.permutation.p_fwe, one.permutation.p_fwe)
        pd.testing.assert_frame_equal(other.clusters, one.clusters, rtol=1e-4)
        pd.testing.assert_frame_equal(other.cluster_means, one.cluster_means)


# ---------------------------------------------------------------------- settings


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cluster_p": 0.01, "cluster_threshold": 3.1}, "both given"),
        ({"cluster_p": 3.1}, "cluster_p is 3.1"),
        ({"cluster_threshold": -1.0}, "cluster_threshold is -1"),
        ({"connectivity": 8}, "connectivity is 8"),
        ({"errors": "both!"}, "errors is 'both!'"),
        ({"n_permutations": -1}, "n_permutations is -1"),
        ({"n_permutations": 0, "tfce": True}, "TFCE without permutations"),
        ({"n_permutations": 0, "tail": "gpd"}, "tail approximation without permutations"),
        ({"flips": "group"}, 'flips is "group"'),
        ({"tfce_step": "max/10"}, "tfce_step"),
        ({"formula": None}, "no design"),
        ({"data": "x.zarr", "fwhm": 6.0}, "fwhm with a packed store"),
        ({"fwhm": float("nan")}, "fwhm is nan"),
        ({"min_coverage": 1.5}, "min_coverage is 1.5"),
        ({"atlas_names": "names.tsv"}, "without the atlas"),
        ({"phenotypes": ["age"], "contrasts": ["age"]}, "both given"),
        ({"contrasts": ["Age=age", "age"]}, "same name"),
        ({"map_column": None}, "names no maps"),
    ],
)
def test_arguments_that_make_no_sense(cohort, options, message):
    with pytest.raises(UsageError, match=message.replace("(", r"\(")):
        run(**options)


def test_an_atlas_on_another_grid_is_refused_before_the_maps_are_read(cohort):
    write_image("atlas_dseg.nii.gz", np.ones((6, 6, 6), np.int16))
    with pytest.raises(GridError, match=r"atlas_dseg.nii.gz: shape 6x6x6, mask.nii.gz: 12x13x14") as caught:
        run(contrasts=["age"], atlas="atlas_dseg.nii.gz")
    assert "resample" in caught.value.hint


def test_permutations_of_a_file(cohort):
    random = np.random.default_rng(0)
    rows = np.stack([np.arange(1, N + 1), *(random.permutation(N) + 1 for _ in range(30))])
    np.savetxt("permidx.csv", rows, fmt="%d", delimiter=",")
    assert read_permutations("permidx.csv", N).tolist() == rows.tolist()
    result = run(contrasts=["age"], permutations="permidx.csv")
    assert result.contrasts["age"].permutation.n_permutations == 31
    direct = run(contrasts=["age"], permutations=rows)
    np.testing.assert_array_equal(direct.contrasts["age"].permutation.p_fwe, result.contrasts["age"].permutation.p_fwe)
    with pytest.raises(DataError, match="rearrangements of 20 people, but the design has 18 rows"):
        read_permutations("permidx.csv", 18)
    Path("words.csv").write_text("a,b\n")
    with pytest.raises(DataError, match=r"words.csv"):
        read_permutations("words.csv", 2)


def test_settings_survive_the_file_that_runs_them_again(cohort):
    given = {"contrasts": ["a=age"], "cluster_p": 0.01, "two_sided": False, "blocks": ["family"], "tfce": True}
    settings = run(**given, n_permutations=4).options
    table = tomllib.loads(settings.as_toml())
    assert table["participants"] == str(Path("participants.tsv").resolve())
    assert table["contrast"] == ["a=age"]
    assert (table["n-perm"], table["two-sided"], table["cluster-p"]) == (4, False, 0.01)
    assert "atlas" not in table
    in_memory = ScreenSettings("t.tsv", formula="map ~ age", permutations=np.ones((2, 3), int)).as_toml()
    assert "permutations" not in tomllib.loads(in_memory)
    assert "ndarray of shape (2, 3)" in in_memory


def test_settings_with_any_name_are_read_back_or_refused(here):
    odd = 'ta"ble\\ \x7f\x01 ä.tsv'
    table = tomllib.loads(ScreenSettings(odd, formula="map ~ age").as_toml())
    assert table["participants"] == str(Path(odd).resolve())
    latin1 = os.fsdecode(b"m\xe4sk.nii.gz")
    text = ScreenSettings("t.tsv", formula="map ~ age", mask=latin1).as_toml()
    assert r"m\udce4sk.nii.gz" in text.encode("utf-8").decode()
    with pytest.raises(tomllib.TOMLDecodeError, match="Unicode"):
        tomllib.loads(text)


def test_reading_is_told_map_by_map(cohort):
    told = []
    run(contrasts=["age"], n_permutations=0, progress=lambda *at: told.append(at))
    for stage in ("hashing", "reading"):
        assert [at[1:] for at in told if at[0] == stage] == [(k, N, "maps") for k in range(N + 1)]
