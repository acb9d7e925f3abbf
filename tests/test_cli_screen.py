"""`gpuroi screen`: the tree that it writes, running it again, and every kind of bad input."""

from __future__ import annotations

import gzip
import inspect
import json
import os
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from screen_cohorts import SHAPE, N, result_bytes, save_table, volume, write_cohort, write_image

from gpuroi import screen as screen_function
from gpuroi.cli import main
from gpuroi.cli.screen import screen as command
from gpuroi.cohort import write_vest
from gpuroi.workflows.pack import pack
from gpuroi.workflows.screen_settings import ScreenSettings

FORMULA = ("--formula", "map ~ group + age")
WORDS = (*FORMULA, "--mask", "mask.nii.gz", "--n-perm", 50, "--device", "cpu", "--no-figures")


@pytest.fixture
def cohort(here) -> pd.DataFrame:
    return write_cohort()


def run(*words: object) -> int:
    return main(["screen", "participants.tsv", *(str(word) for word in words)])


def refused(capsys, *words: object, code: int = 65) -> str:
    """The message of a run that fails, which leaves nothing but what was there."""
    before = set(_here())
    assert run(*WORDS, "--out", "out", *words) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert "Traceback" not in err
    assert set(_here()) - before <= {"bad_inputs.tsv"}
    return err


def _here() -> list[str]:
    return [path.name for path in Path().iterdir()]


# ---------------------------------------------------------------------- the tree


def test_the_whole_tree(cohort, capsys):
    words = [*WORDS, "--contrast", "patient=group[T.patient]", "--contrast", "age", "--cluster-p", "0.01", "--tfce"]
    assert run(*words, "--atlas", "atlas_dseg.nii.gz", "--seed", 1, "--out", "out") == 0
    found = sorted(path.relative_to("out").as_posix() for path in Path("out").rglob("*") if path.is_file())
    maps = ["effect", "variance", "t", "z", "p", "tfce"]
    maps += [f"logp_desc-{name}FWE" for name in ("voxel", "size", "mass", "tfce")] + ["logp_desc-FDR"]
    want = [
        "dataset_description.json", "design.json", "design.tsv", "excluded.tsv", "logs/CITATION.md", "mask.nii.gz",
        "participants_used.tsv", "provenance.json", "report.html", "roi_means.json", "roi_means.tsv",
        "stat-n_statmap.json", "stat-n_statmap.nii.gz",
    ]  # fmt: skip
    for label in ("patient", "age"):
        stem = f"contrast-{label}"
        want += [f"{stem}_stat-{name}_statmap.{kind}" for name in maps for kind in ("nii.gz", "json")]
        want += [f"{stem}_clusters.{kind}" for kind in ("tsv", "json")] + [f"{stem}_null.tsv"]
        want += [f"{stem}_desc-clusters_{name}" for name in ("dseg.nii.gz", "dseg.tsv", "means.tsv")]
    logs = [name for name in found if re.fullmatch(r"logs/gpuroi_\d{8}T\d{6}Z\.(log|toml)", name)]
    assert sorted(set(found) - set(logs)) == sorted(want)
    assert [Path(name).suffix for name in logs] == [".log", ".toml"]
    assert not Path(".out.gpuroi-run").exists()

    out = capsys.readouterr().out
    assert f"participants  {N} rows, {N} maps found" in out
    assert "written       out/report.html" in out
    shown = out[out.index("Contrast Cluster ID") :].splitlines()
    assert {line.split()[0] for line in shown[1:3]} == {"patient", "age"}  # the planted one of each comes first

    sidecar = json.loads(Path("out/contrast-age_stat-logp_desc-sizeFWE_statmap.json").read_text())
    known = {name: sidecar[name] for name in ("Contrast", "Statistic", "TwoSided", "DegreesOfFreedom", "Seed")}
    assert known == {"Contrast": "age", "Statistic": "t", "TwoSided": True, "DegreesOfFreedom": N - 3, "Seed": 1}
    assert (sidecar["NumberOfParticipants"], sidecar["NumberOfPermutations"], sidecar["SmallestP"]) == (N, 50, 0.02)
    assert (sidecar["Connectivity"], sidecar["ClusterScale"]) == (6, "t")
    assert re.fullmatch("[0-9a-f]{64}", sidecar["InputsSHA256"])
    design = json.loads(Path("out/design.json").read_text())
    assert design["Contrasts"][0] == {
        "Kind": "t", "Label": "patient", "Name": "patient", "Text": "group[T.patient]", "Weights": [[0, 1, 0]]
    }  # fmt: skip
    assert (design["N"], design["Rank"], design["DegreesOfFreedom"]) == (N, 3, N - 3)
    record = json.loads(Path("out/provenance.json").read_text())
    assert (record["workflow"], record["settings"]["cluster_p"], record["device"]) == ("screen", 0.01, "cpu")
    logp, labels = (volume(f"out/contrast-age_{name}.nii.gz") for name in (
        "stat-logp_desc-sizeFWE_statmap", "desc-clusters_dseg"))  # fmt: skip
    table = pd.read_csv("out/contrast-age_clusters.tsv", sep="\t")
    p = np.append(1.0, table["p_size_FWE"])[labels.astype(int)]
    np.testing.assert_allclose(logp, -np.log10(p), atol=1e-6)


def test_methods_in_words(cohort):
    options = ["--cluster-p", "0.01", "--tfce", "--one-sided", "--tail", "gpd", "--errors", "ise", "--fwhm", 6]
    assert run(*WORDS, "--contrast", "age", *options, "--out", "out") == 0
    text = Path("out/logs/CITATION.md").read_text()
    for part in (
        f"Maps of {N} participants", "6 mm full width", "`map ~ group + age`", "one-sided, positive: `age`",
        "50 random sign flips", "seed 0", "uncorrected p of 0.01", "H = 2, E = 0.5", "generalised Pareto",
    ):  # fmt: skip
        assert part in text
    body, references = text.split("## References")
    numbers = sorted({int(n) for cited in re.findall(r"\[([\d, ]+)\]", body) for n in cited.split(",")})
    assert numbers == list(range(1, len(references.strip().splitlines()) + 1))
    assert references.count("https://doi.org/10.") == len(numbers)


def test_the_config_file_runs_the_same_again(cohort):
    assert run(*WORDS, "--contrast", "age", "--cluster-threshold", 3, "--one-sided", "--seed", 7, "--out", "first") == 0
    config = next(Path("first/logs").glob("*.toml"))
    os.chdir("maps")
    assert (
        main(["screen", "--config", str(Path("..") / config), "--device", "cpu", "--no-figures", "--out", "../again"])
        == 0
    )
    os.chdir("..")
    assert result_bytes("again") == result_bytes("first")
    assert main(["screen", "--config", str(config), "--seed", "8", "--no-figures", "--out", "other"]) == 0
    sidecar = json.loads(Path("other/contrast-age_clusters.json").read_text())
    assert (sidecar["Seed"], sidecar["ClusterThreshold"], sidecar["TwoSided"]) == (8, 3.0, False)


@pytest.mark.parametrize(("text", "code"), [(None, 65), ("seed = = 1", 65), ("sead = 1", 2)])
def test_a_config_file_that_cannot_be_used(cohort, capsys, text, code):
    if text is not None:
        Path("run.toml").write_text(text)
    err = refused(capsys, "--config", "run.toml", code=code)
    assert "run.toml" in err or "sead" in err


def test_names_that_are_not_utf_8_are_kept_but_for_the_config_file_which_is_refused(cohort, capsys):
    mask = os.fsdecode(b"m\xe4sk.nii.gz")
    Path("mask.nii.gz").rename(mask)
    words = ["screen", "participants.tsv", "--formula", "map ~ age", "--mask", mask, "--n-perm", "0", "--out", "out"]
    assert main([*words, "--device", "cpu"]) == 0
    config = next(Path("out/logs").glob("*.toml"))
    capsys.readouterr()
    err = refused(capsys, "--config", str(config), code=65)
    assert "holds a name that is not UTF-8" in err
    assert "give it as an option" in err


def test_messages_name_options_not_arguments(cohort, capsys):
    assert "--cluster-p is 5.0" in refused(capsys, "--cluster-p", 5, code=2)
    words = ("--formula", "map ~ 1", "--mask", "mask.nii.gz", "--n-perm", 50, "--device", "cpu", "--out", "out")
    assert run(*words, "--dry-run") == run(*words) == 65  # said before the maps are read
    assert "use --errors ise (sign flips)" in capsys.readouterr().err


def test_dry_run_writes_nothing(cohort, capsys):
    before = sorted(_here())
    assert run(*WORDS, "--contrast", "age", "--tfce", "--out", "out", "--dry-run") == 0
    out = capsys.readouterr().out
    for name in ("participants", "grid", "design", "contrasts", "would fit", "memory", "would write"):
        assert re.search(rf"^{name} ", out, re.MULTILINE)
    assert sorted(_here()) == before
    assert "needs at least" in refused(capsys, "--contrast", "age", "--memory-limit", "1MB", code=2)


def test_results_are_not_replaced_unasked(cohort, capsys):
    assert run(*WORDS, "--contrast", "age", "--out", "out") == 0
    first = result_bytes("out")
    assert run(*WORDS, "--contrast", "age", "--out", "out") == 73
    assert "holds results with these very settings already" in capsys.readouterr().err
    assert run(*WORDS, "--contrast", "age", "--seed", 3, "--out", "out") == 73
    assert "--overwrite" in capsys.readouterr().err
    assert result_bytes("out") == first
    assert run(*WORDS, "--contrast", "age", "--seed", 3, "--out", "out", "--overwrite") == 0
    assert result_bytes("out") != first


def test_an_interrupted_run_goes_on_and_writes_the_same_bytes(cohort, capsys, monkeypatch):
    words = [300 if word == 50 else word for word in WORDS]
    words += ["--contrast", "age", "--contrast", "group", "--cluster-p", "0.01"]
    assert run(*words, "--out", "whole") == 0
    calls = []

    def interrupt(stage: str, done: int, total: int, unit: str = "") -> None:
        calls.append((stage, done))
        if stage == "group" and done >= 100:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("gpuroi.workflows.heartbeat.Heartbeat.__call__", lambda self, *args: interrupt(*args))
        assert run(*words, "--out", "out") == 75
    assert "goes on from there" in capsys.readouterr().err
    assert not Path("out").exists()
    resumed = []
    with monkeypatch.context() as patch:
        patch.setattr("gpuroi.workflows.heartbeat.Heartbeat.__call__", lambda self, *args: resumed.append(args))
        assert run(*words, "--out", "out") == 0
    assert min(done for stage, done, *_ in resumed if stage == "group") > 100
    assert result_bytes("out") == result_bytes("whole")
    assert not Path(".out.gpuroi-run").exists()


def test_phenotypes(cohort, capsys):
    cohort["q_one"], cohort["q_two"] = cohort["age"] * 2.0, np.random.default_rng(1).normal(size=N)
    save_table(cohort)
    words = ["--formula", "map ~ group", "--mask", "mask.nii.gz", "--n-perm", 50, "--no-figures", "--device", "cpu"]
    assert run(*words, "--phenotypes", "q_*", "--phenotype-maps", "q_one", "--out", "out") == 0
    table = pd.read_csv("out/phenotypes.tsv", sep="\t").set_index("phenotype")
    assert table.loc["q_one", "p_FWE"] == pytest.approx(0.02)
    assert list(Path("out").glob("phenotype-*_stat-t_statmap.nii.gz"))
    assert "q_one" in capsys.readouterr().out


def test_options_are_those_of_the_function():
    ours, theirs = inspect.signature(command).parameters, inspect.signature(screen_function).parameters
    named = {"contrast": "contrasts"}
    alone = {"out", "figures", "dry_run", "config", "overwrite"}
    assert {named.get(name, name) for name in ours} - alone == set(theirs) - {"run_folder", "progress"}
    for name, parameter in ours.items():
        if name not in alone:
            default = theirs[named.get(name, name)].default
            assert parameter.default == (None if default == () else default), name
    fields = set(ScreenSettings.__dataclass_fields__)
    assert fields == set(theirs) - {"device", "memory_limit", "n_jobs", "scratch", "dask", "run_folder", "progress"}


# ---------------------------------------------------------------------- bad input


def test_all_offenders_in_one_message(cohort, capsys):
    cohort.loc[1, "participant_id"] = "00"
    cohort.loc[2, "map"] = "maps/nowhere.nii.gz"
    save_table(cohort)
    write_image("maps/sub-03_map.nii.gz", np.zeros((5, 5, 5), np.float32))
    write_image("maps/sub-04_map.nii.gz", np.zeros((*SHAPE, 2), np.float32))
    write_image("maps/sub-05_map.nii.gz", np.zeros(SHAPE, np.float32), np.diag([2.0, 2, 2, 1]))
    err = refused(capsys, "--contrast", "nothing", "--contrast", "agee")
    for part in (
        "2 rows of 00", "nowhere.nii.gz: no such file", "sub-03_map.nii.gz: shape 5x5x5", "2 frames",
        "sub-05_map.nii.gz: voxel size 2 mm", '"nothing" is none of the columns', 'did you mean "age"',
    ):  # fmt: skip
        assert part in err
    listed = pd.read_csv("bad_inputs.tsv", sep="\t")
    assert len(listed) >= 7
    assert "bad_inputs.tsv" in err


def without_age(cohort):
    cohort["age"] = cohort["age"].astype(object)
    cohort.loc[3, "age"] = None


def constant_age(cohort):
    cohort["age"] = 40


def lonely_level(cohort):
    cohort.loc[0, "group"] = "other"


def another_map(cohort):
    cohort.loc[0, "map"] = "maps/sub-01_map.nii.gz"


@pytest.mark.parametrize(
    ("change", "words", "message"),
    [
        (without_age, ["--missing", "error"], "03: participants.tsv: no value of age"),
        (constant_age, [], 'age is "40" for all 20 people'),
        (lonely_level, [], 'level "other" of group has one person (00)'),
        (another_map, [], "sub-01 in the file name"),
        (None, ["--contrast", "aged"], '"aged" is none of the columns'),
        (None, ["--blocks", "house"], '"house" is none of the columns'),
        (None, ["--variance-groups", "house"], '"house" is none of the columns'),
        (None, ["--permutations", "none.csv"], "none.csv: no such file"),
        (None, ["--atlas", "none.nii.gz"], "none.nii.gz"),
    ],
)
def test_bad_tables_and_arguments(cohort, capsys, change, words, message):
    if change is not None:
        change(cohort)
        save_table(cohort)
    assert message in refused(capsys, *words)


def test_an_empty_mask_and_one_that_shrinks_to_nothing(cohort, capsys):
    write_image("mask.nii.gz", np.zeros(SHAPE, np.uint8))
    assert "mask.nii.gz" in refused(capsys)
    inside = np.zeros(SHAPE, np.uint8)
    inside[5, 5, 5] = 1
    write_image("mask.nii.gz", inside)
    hole = volume("maps/sub-07_map.nii.gz").astype(np.float32)
    hole[5, 5, 5] = np.nan
    write_image("maps/sub-07_map.nii.gz", hole)
    assert "no voxel of the mask is left" in refused(capsys)


def test_a_map_that_ends_half_way(cohort, capsys):
    packed = Path("maps/sub-07_map.nii.gz").read_bytes()
    whole = gzip.decompress(packed)
    Path("maps/sub-07_map.nii.gz").write_bytes(gzip.compress(whole[: len(whole) // 2]))
    assert "sub-07_map.nii.gz" in refused(capsys)


def test_a_store_that_was_cut_short_and_one_without_a_participant(cohort, capsys):
    pack("participants.tsv", mask="mask.nii.gz", out="cohort.zarr")
    words = [
        "screen",
        "participants.tsv",
        *map(str, FORMULA),
        "--data",
        "cohort.zarr",
        "--n-perm",
        "20",
        "--out",
        "out",
    ]
    cohort.loc[N] = ["99", "maps/sub-00_map.nii.gz", "control", 33, "f9", 0.5]
    save_table(cohort)
    assert main(words) == 65
    assert "99: cohort.zarr: no map" in capsys.readouterr().err
    save_table(cohort.drop(index=N))
    shard = next(path for path in Path("cohort.zarr/maps").rglob("*") if path.is_file() and path.name != "zarr.json")
    shard.write_bytes(shard.read_bytes()[:-200])
    assert main(words) == 65
    assert "cohort.zarr" in capsys.readouterr().err
    assert not Path("out").exists()
    assert not Path(".out.gpuroi-run").exists()


@pytest.mark.parametrize("where", ["gpuroi.images.write._write_nifti", "gpuroi.report.screen_page.screen_page"])
def test_a_full_disk(cohort, capsys, monkeypatch, where):
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(where, full)
    assert run(*WORDS, "--contrast", "age", "--out", "out") == 73
    assert "No space left on device" in capsys.readouterr().err
    assert not Path("out").exists()
    assert not [name for name in _here() if name.startswith(".partial")]


def test_a_design_of_fsl(cohort):
    matrix = np.column_stack([np.ones(N), cohort["group"] == "patient", cohort["age"] - 45.0]).astype(float)
    write_vest("design.mat", matrix)
    write_vest("design.con", np.array([[0.0, 1, 0], [0, 0, 1]]))
    words = ["--design", "design.mat", "--con", "design.con", "--mask", "mask.nii.gz", "--n-perm", 50, "--no-figures"]
    assert run(*words, "--device", "cpu", "--out", "fsl") == 0
    assert run(*WORDS, "--contrast", "patient=group[T.patient]", "--contrast", "age", "--out", "formula") == 0
    names = [one["Label"] for one in json.loads(Path("fsl/design.json").read_text())["Contrasts"]]
    for ours, theirs in zip(("patient", "age"), names, strict=True):
        want = volume(f"formula/contrast-{ours}_stat-t_statmap.nii.gz")
        np.testing.assert_allclose(volume(f"fsl/contrast-{theirs}_stat-t_statmap.nii.gz"), want, rtol=1e-4, atol=1e-5)
