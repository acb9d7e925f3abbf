"""Many phenotypes of a cohort, from the table to the files: each as if it were tested alone."""

from __future__ import annotations

import json
from itertools import permutations

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import scipy.stats
import statsmodels.api as sm
from hypothesis import given
from hypothesis import strategies as st
from nilearn.mass_univariate import permuted_ols

from gpuroi.cohort import BadInputsError, pack_maps, read_participants
from gpuroi.errors import UsageError
from gpuroi.report.phenotype_page import phenotype_page
from gpuroi.workflows.phenotype_result import file_labels
from gpuroi.workflows.screen import screen

SHAPE = (7, 6, 5)
AFFINE = np.array([[-3.0, 0, 0, 10], [0, 3, 0, -8], [0, 0.5, 4, 2], [0, 0, 0, 1]])
FORMULA = "map ~ age + sex"


class Cohort:
    """A table with phenotypes, maps in files, a mask; and the same as arrays."""

    def __init__(self, folder, n=18, seed=4):
        rng = np.random.default_rng(seed)
        self.folder, self.table_path, self.mask_path = folder, folder / "participants.tsv", folder / "mask.nii.gz"
        self.mask = rng.random(SHAPE) < 0.8
        self.volumes = rng.standard_normal((n, *SHAPE)).astype(np.float32)
        table = pd.DataFrame({"participant_id": [f"sub-{i:02d}" for i in range(n)]})
        table["map"] = [f"{name}.nii.gz" for name in table["participant_id"]]
        table["age"], table["sex"] = rng.uniform(20, 70, n).round(1), np.where(np.arange(n) % 2, "M", "F")
        for j in range(5):
            table[f"q_{j}"] = rng.standard_normal(n).round(3) + 10 * j
        self.volumes[:, 3, 3, 2] += 3 * table["q_2"].to_numpy(np.float32)
        self.mask[3, 3, 2] = True
        table["q_4"] = table["q_4"].where(~table.index.isin([2, 7]))
        self.table = table
        folder.mkdir(exist_ok=True)
        self.write()
        nib.save(nib.Nifti1Image(self.mask.astype(np.uint8), AFFINE), self.mask_path)
        for name, volume in zip(table["map"], self.volumes, strict=True):
            nib.save(nib.Nifti1Image(volume, AFFINE), folder / name)

    def write(self):
        self.table.to_csv(self.table_path, sep="\t", index=False, na_rep="n/a")

    def screen(self, phenotypes=("q_*",), **options):
        options = {"n_permutations": 40, "device": "cpu", "formula": FORMULA, "top": 6, **options}
        return screen(self.table_path, mask=self.mask_path, phenotypes=phenotypes, **options)

    @property
    def covariates(self):
        table = self.table
        return np.column_stack([np.ones(len(table)), table["age"], table["sex"] == "M"]).astype(float)

    def t_of(self, name):
        """t of a phenotype at every voxel of the mask, by statsmodels, in those who have it."""
        there = self.table[name].notna().to_numpy()
        design = np.column_stack([self.table[name], self.covariates])[there]
        data = self.volumes[there][:, self.mask].astype(float)
        return np.array([sm.OLS(column, design).fit().tvalues[0] for column in data.T])


@pytest.fixture
def cohort(tmp_path):
    return Cohort(tmp_path / "cohort")


def test_files_hold_what_a_regression_of_each_phenotype_gives(cohort, tmp_path, device):
    result = cohort.screen(phenotype_maps=["q_2", "q_4"], device=device)
    out = result.save(tmp_path / "out", figures=False)
    table = pd.read_csv(out / "phenotypes.tsv", sep="\t")
    top = pd.read_csv(out / "top.tsv", sep="\t")
    assert table["phenotype"].tolist() == [f"q_{j}" for j in range(5)]
    assert table["n"].tolist() == [18, 18, 18, 18, 16]
    assert table["df"].tolist() == [14, 14, 14, 14, 12]
    assert set(table["voxels"]) == {cohort.mask.sum()}
    places = nib.affines.apply_affine(AFFINE, np.argwhere(cohort.mask))
    for row in table.itertuples():
        want = cohort.t_of(row.phenotype)
        order = np.argsort(-np.abs(want), kind="stable")[:6]
        mine = top[top["phenotype"] == row.phenotype]
        assert mine["rank"].tolist() == [1, 2, 3, 4, 5, 6]
        np.testing.assert_allclose(mine["stat"], want[order], rtol=2e-4)
        np.testing.assert_allclose(mine[["X", "Y", "Z"]], places[order], atol=1e-9)
        np.testing.assert_allclose(mine["p"], 2 * scipy.stats.t.sf(np.abs(want[order]), row.df), rtol=5e-3)
        assert (row.max_stat, row.X, row.Y, row.Z) == tuple(mine[["stat", "X", "Y", "Z"]].iloc[0])
    assert table["p_FWE_all"].idxmin() == 2
    assert sorted(path.name for path in out.glob("phenotype-*.nii.gz")) == [
        "phenotype-q2_stat-t_statmap.nii.gz",
        "phenotype-q4_stat-t_statmap.nii.gz",
    ]
    image = nib.load(out / "phenotype-q4_stat-t_statmap.nii.gz")
    np.testing.assert_allclose(image.affine, AFFINE)
    np.testing.assert_allclose(image.get_fdata()[cohort.mask], cohort.t_of("q_4"), rtol=2e-4, atol=1e-5)
    assert not image.get_fdata()[~cohort.mask].any()
    about = json.loads((out / "phenotype-q4_stat-t_statmap.json").read_text())
    assert (about["Phenotype"], about["DegreesOfFreedom"], about["NumberOfParticipants"]) == ("q_4", 12, 16)


def test_maps_are_those_of_nilearn(cohort):
    result = cohort.screen(["q_0", "q_1", "q_3"], phenotype_maps=["q_*"], n_permutations=0)
    names = list(result.found.maps)
    peer = permuted_ols(
        cohort.table[names].to_numpy(),
        cohort.volumes[:, cohort.mask],
        np.ascontiguousarray(cohort.covariates[:, 1:]),
        n_perm=0,
    )["t"]
    np.testing.assert_allclose([result.found.maps[name] for name in names], peer, rtol=2e-4, atol=1e-5)
    assert result.table["p_FWE"].isna().all()
    assert "null" not in result.text


def test_corrected_p_are_those_of_all_permutations_by_brute_force(tmp_path):
    cohort = Cohort(tmp_path / "few", n=6)
    result = cohort.screen(["q_0", "q_1", "q_2"], formula="map ~ 1", n_permutations=5000)
    assert result.counts["permutations"] == 720  # all there are
    data = cohort.volumes[:, cohort.mask].astype(float)
    data = (data - data.mean(axis=0)) / data.std(axis=0)
    orders = np.array(list(permutations(range(6))))
    maxima = []
    for name in ("q_0", "q_1", "q_2"):
        trait = cohort.table[name].to_numpy()
        r = np.abs(((trait - trait.mean()) / trait.std())[orders] @ data / 6).max(axis=1)
        maxima.append(r * np.sqrt(4 / (1 - r * r)))
    for k, row in enumerate(result.table.itertuples()):
        least = abs(row.max_stat) * (1 - 1e-4)
        np.testing.assert_allclose(np.sort(result.null[row.phenotype]), np.sort(maxima[k]), rtol=1e-4)
        assert row.p_FWE == pytest.approx(np.mean(maxima[k] >= least))
        # The same permutation for all phenotypes: its largest t of any.
        assert row.p_FWE_all == pytest.approx(np.mean(np.max(maxima, axis=0) >= least))


def test_tables_count_every_voxel(cohort, tmp_path):
    result = cohort.screen(phenotype_maps=["q_*"])
    out = result.save(tmp_path / "out", figures=False)
    qq, histogram = (pd.read_csv(out / f"{name}.tsv", sep="\t") for name in ("qq", "histogram"))
    for name, t in result.found.maps.items():
        on_edge = np.count_nonzero(np.abs(t / 0.1 - np.round(t / 0.1)) < 1e-4)  # these may fall either way
        edges = [*histogram["t_from"], histogram["t_to"].iloc[-1]]
        assert np.abs(histogram[name].to_numpy() - np.histogram(t, edges)[0]).sum() <= 2 * on_edge
        rows = qq[qq["phenotype"] == name]
        reaching = (np.abs(t) >= rows["t"].to_numpy()[:, None]).sum(axis=1)
        assert np.abs(rows["voxels_reaching"] - reaching).max() <= on_edge
        np.testing.assert_allclose(rows["log10p_expected"], -np.log10(rows["voxels_reaching"] / len(t)), atol=1e-12)
        df = int(result.table.set_index("phenotype").loc[name, "df"])
        np.testing.assert_allclose(rows["log10p"], -np.log10(2 * scipy.stats.t.sf(rows["t"], df)), atol=1e-9)
    null = pd.read_csv(out / "null.tsv", sep="\t")
    assert null.shape == (40, 5)
    np.testing.assert_allclose(null.iloc[0], result.table["max_stat"].abs(), rtol=1e-5)


def test_the_same_bytes_from_files_store_and_little_memory(cohort, tmp_path):
    people = read_participants(cohort.table_path)
    pack_maps(people, cohort.mask_path, tmp_path / "cohort.zarr")
    kept = ("phenotypes.tsv", "top.tsv", "histogram.tsv", "qq.tsv", "null.tsv")
    name = "phenotype-q3_stat-t_statmap.nii.gz"
    options = {"phenotype_maps": ["q_3"]}
    want = cohort.screen(n_jobs=1, **options).save(tmp_path / "files", figures=False)
    runs = {
        "threads": {"n_jobs": 3},
        "store": {"data": tmp_path / "cohort.zarr"},
        "disk": {"data": tmp_path / "cohort.zarr", "memory_limit": 1000},
    }
    for run, more in runs.items():
        got = cohort.screen(**options, **more).save(tmp_path / run, figures=False)
        for file in kept:
            assert (got / file).read_bytes() == (want / file).read_bytes(), (run, file)
        np.testing.assert_array_equal(nib.load(got / name).get_fdata(), nib.load(want / name).get_fdata())


def test_the_tree(cohort, tmp_path):
    out = cohort.screen(phenotype_maps=["q_1"]).save(tmp_path / "out")
    found = {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()}
    tables = {f"{name}.{kind}" for name in ("phenotypes", "top", "histogram", "qq", "null") for kind in ("tsv", "json")}
    logs = {name for name in found if name.startswith("logs/gpuroi_")}
    assert len(logs) == 1
    assert found - logs == tables | {
        "dataset_description.json", "provenance.json", "report.html", "design.tsv", "design.json", "design.svg",
        "participants_used.tsv", "excluded.tsv", "mask.nii.gz", "stat-n_statmap.nii.gz", "stat-n_statmap.json",
        "phenotype-q1_stat-t_statmap.nii.gz", "phenotype-q1_stat-t_statmap.json", "logs/CITATION.md",
        "figures/overview.png", "figures/qq.png", "figures/coverage.png", "figures/phenotype-1_glass.png",
    }  # fmt: skip
    for table in tables:
        if table.endswith(".tsv"):
            columns = pd.read_csv(out / table, sep="\t", nrows=0).columns
            about = json.loads((out / table.replace(".tsv", ".json")).read_text())
            assert all(name in about or name.startswith("q_") for name in columns)
    record = json.loads((out / "provenance.json").read_text())
    assert (record["workflow"], record["counts"]["phenotypes"]) == ("screen", 5)
    assert 'phenotypes = ["q_*"]' in (out / logs.pop()).read_text()


def test_columns_are_chosen_by_name_and_pattern(cohort):
    def names(*patterns, **options):
        return cohort.screen(patterns, n_permutations=0, **options).table["phenotype"].tolist()

    assert cohort.screen("q_3", n_permutations=0).table["phenotype"].tolist() == ["q_3"]  # one needs no list
    assert names("q_3", "q_0") == ["q_0", "q_3"]  # in the order of the table
    assert names("q_*", "!q_[13]") == ["q_0", "q_2", "q_4"]
    assert names("age", "q_0", formula="map ~ 1") == ["age", "q_0"]
    cohort.table = cohort.table.drop(columns="sex")
    cohort.write()
    assert names("*", formula="map ~ 1") == ["age", *(f"q_{j}" for j in range(5))]  # never ids and maps


@pytest.mark.parametrize(
    ("phenotypes", "options", "message"),
    [
        (["q_*", "iq", "z_*"], {}, "no column fits iq, z_*"),
        (["q_*", "!q_*"], {}, "nothing is left"),
        (["q_1"], {"phenotype_maps": ["q_2"]}, "no column fits q_2"),
        (["q_1"], {"contrasts": ["age"]}, "phenotypes and contrasts"),
        (["q_1"], {"tfce": True, "cluster_p": 0.01}, "clusters, TFCE"),
        ([], {"phenotype_maps": ["q_2"]}, "phenotype_maps without phenotypes"),
    ],
)
def test_arguments_that_do_not_go_are_refused(cohort, phenotypes, options, message):
    with pytest.raises(UsageError, match=message.replace("*", r"\*")):
        cohort.screen(phenotypes, **options)


def test_one_error_names_all_phenotypes_that_cannot_be_tested(cohort):
    table = cohort.table
    table["q_same"], table["q_none"], table["q_age"] = 3.5, np.nan, 2 * table["age"] + 1
    table["q_word"], table["q_far"] = "often", np.where(np.arange(18) == 3, np.inf, table["q_0"])
    table["q_few"] = np.where(np.arange(18) < 4, table["q_0"], np.nan)
    cohort.write()
    with pytest.raises(BadInputsError) as caught:
        cohort.screen()
    found = [bad.found for bad in caught.value.bad_inputs]
    reasons = {
        "q_same": "is constant",
        "q_none": "is missing in everybody",
        "q_age": "is constant beside the covariates",
        "q_word": 'holds text: "often"',
        "q_far": "has infinite values",
        "q_few": "is there in 4 of 18 only",
    }
    assert len(found) == len(reasons)
    for name, reason in reasons.items():
        assert any(f'"{name}" {reason}' in text for text in found), (name, found)
    assert "!q_" in caught.value.hint
    assert cohort.screen(["q_?"]).table["phenotype"].tolist() == [f"q_{j}" for j in range(5)]


def test_people_without_a_covariate_are_excluded_from_all(cohort, tmp_path):
    cohort.table.loc[5, "age"] = np.nan
    cohort.write()
    result = cohort.screen()
    assert result.table["n"].tolist() == [17, 17, 17, 17, 15]
    assert result.participants.excluded["participant_id"].tolist() == ["sub-05"]
    out = result.save(tmp_path / "out", figures=False)
    assert "sub-05" in (out / "excluded.tsv").read_text()
    assert len(pd.read_csv(out / "participants_used.tsv", sep="\t")) == 17


def test_the_page_needs_nothing_else_and_names_are_text(cohort, tmp_path):
    cohort.table = cohort.table.rename(columns={"q_2": "q_<script>alert(1)</script>"})
    cohort.write()
    out = cohort.screen(phenotype_maps=["q_<*"]).save(tmp_path / "out")
    html = (out / "report.html").read_text(encoding="utf-8")
    assert "<script>alert" not in html
    assert 'src="http' not in html
    assert "1 phenotype with a p of 0.05 or less" in html
    assert html.count("<figure") == 5  # overview, p, a map, design, coverage
    again = phenotype_page(out, [])
    assert "No pictures" in again
    assert "Glass brain" not in again
    unpermuted = cohort.screen(n_permutations=0).report()
    assert "no permutations" in unpermuted


@given(st.lists(st.text(max_size=6), unique=True, max_size=12))
def test_labels_of_files_differ(names):
    labels = file_labels(names)
    assert list(labels) == names
    assert len({label.lower() for label in labels.values()}) == len(names)
    assert all(label.isalnum() and label.isascii() for label in labels.values())


@pytest.mark.parametrize("phenotypes", [["q_0", "q_2"], ["q_2"]])
def test_one_sided_a_phenotype_may_be_below_0_everywhere(cohort, phenotypes):
    slope = cohort.table["q_2"].to_numpy(np.float32)
    for name, values in zip(cohort.table["map"], cohort.volumes - 20 * slope[:, None, None, None], strict=True):
        nib.save(nib.Nifti1Image(values, AFFINE), cohort.folder / name)
    result = cohort.screen(phenotypes, two_sided=False)
    last = result.table.iloc[-1]
    assert last["max_stat"] < 0
    assert last["p_FWE"] > 0.9
    assert "q_2" not in set(result.qq["phenotype"])
    saved = result.save(cohort.folder / "out")
    assert (saved / "figures" / "qq.png").stat().st_size > 1000
