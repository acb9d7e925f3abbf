"""`gpuroi check`: what it prints and writes, on real cohorts and on every kind of bad input."""

from __future__ import annotations

import gzip
import json
import sys
from pathlib import Path

import nibabel
import numpy as np
import pandas as pd
import pytest

from gpuroi.cli import main
from gpuroi.cohort import BadInputsError, write_vest
from gpuroi.demo_data import demo
from gpuroi.errors import UsageError
from gpuroi.workflows.check import check

pytestmark = pytest.mark.usefixtures("here")

N = 12
AFFINE = np.diag([3.0, 3.0, 3.0, 1.0])
FORMULA = "map ~ group + age"


def write(path: str | Path, data: np.ndarray, affine: np.ndarray = AFFINE) -> None:
    nibabel.save(nibabel.Nifti1Image(data, affine), path)


@pytest.fixture
def cohort(here) -> pd.DataFrame:
    """Twelve people, their maps, and a mask."""
    rng = np.random.default_rng(0)
    pattern = rng.normal(size=(6, 7, 8))
    Path("maps").mkdir()
    rows = []
    for k in range(N):
        name = f"maps/sub-{k:02d}_map.nii.gz"
        write(name, (pattern + rng.normal(size=pattern.shape)).astype(np.float32))
        rows.append((f"{k:02d}", name, ["control", "patient"][k % 2], 20 + (k * 7) % 40, f"f{k // 2}"))
    write("mask.nii.gz", np.ones(pattern.shape, np.uint8))
    table = pd.DataFrame(rows, columns=["participant_id", "map", "group", "age", "family"])
    save(table)
    return table


def save(table: pd.DataFrame) -> None:
    table.to_csv("participants.tsv", sep="\t", index=False, na_rep="n/a")


def run(*words: object) -> int:
    return main(["check", "participants.tsv", *(str(word) for word in words)])


def read(path: str) -> pd.DataFrame:
    return pd.read_csv(path, sep="\t", dtype=str, keep_default_na=False)


def refused(capsys: pytest.CaptureFixture[str], *words: object, code: int = 65) -> str:
    assert run(*words) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert "Traceback" not in err
    return err


def test_the_block_that_it_prints(capsys):
    demo("demo", n_subjects=12)
    words = ["--formula", "map ~ group + age + sex", "--contrast", "patient=group[T.patient]", "--contrast", "age"]
    assert main(["check", "demo/participants.tsv", *words, "--mask", "demo/mask.nii.gz"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "participants  12 rows, 12 maps found, ids match file names"
    assert lines[1].startswith("grid          42x52x40 @ 3.50 mm, 1 affine, mask 36,162 voxels")
    assert lines[2] == "missing       age: 1 (sub-09 -> excluded.tsv)   constant voxels: 0   non-finite: 0"
    assert lines[3].startswith("design        Intercept, group[T.patient], age, sex[T.M]   rank 4/4, condition ")
    assert lines[3].endswith(", df 7")
    assert lines[4] == "contrasts     patient (t) = group[T.patient], age (t)"
    assert lines[5] == "coverage      36,162 voxels in 90% of the maps, 36,162 in all"
    assert lines[6].startswith("outliers      ")


def test_the_folder(cohort, capsys):
    cohort["age"] = cohort["age"].astype(object)
    cohort.loc[3, "age"] = None
    save(cohort)
    assert run("--formula", FORMULA, "--contrast", "-age", "--mask", "mask.nii.gz", "--out", "out") == 0
    assert sorted(path.name for path in Path("out").iterdir()) == [
        "bad_inputs.tsv", "dataset_description.json", "design.json", "design.tsv", "excluded.tsv", "maps.tsv",
        "participants_used.tsv", "provenance.json",
    ]  # fmt: skip
    used, excluded = read("out/participants_used.tsv"), read("out/excluded.tsv")
    assert excluded.to_numpy().tolist() == [["03", "missing covariate", "age"]]
    pd.testing.assert_frame_equal(used, read("participants.tsv").drop(index=3).reset_index(drop=True))
    design = pd.read_csv("out/design.tsv", sep="\t", dtype={"participant_id": str})
    assert design.columns.tolist() == ["participant_id", "Intercept", "group[T.patient]", "age"]
    assert design["participant_id"].tolist() == used["participant_id"].tolist()
    assert design["age"].tolist() == used["age"].astype(float).tolist()
    assert design["group[T.patient]"].tolist() == (used["group"] == "patient").astype(float).tolist()
    record = json.loads(Path("out/design.json").read_text())
    assert record["rank"] == np.linalg.matrix_rank(design.iloc[:, 1:]) == 3
    assert record["df"] == N - 1 - 3
    assert record["contrasts"] == [{"kind": "t", "name": "-age", "text": "-age", "weights": [0, 0, -1]}]
    assert len(read("out/bad_inputs.tsv")) == 0
    assert len(read("out/maps.tsv")) == N - 1
    assert run("--formula", FORMULA, "--out", "out") == 73
    assert "--overwrite" in capsys.readouterr().err
    assert run("--formula", FORMULA, "--out", "out", "--overwrite") == 0


def test_every_kind_of_bad_input_in_one_message(cohort, capsys):
    write("maps/sub-01_map.nii.gz", np.zeros((6, 7, 9), np.float32))
    write("maps/sub-02_map.nii.gz", np.zeros((6, 7, 8, 2), np.float32))
    write("maps/sub-03_map.nii.gz", np.zeros((6, 7, 8), np.float32), np.diag([2.0, 3, 3, 1]))
    Path("maps/sub-04_map.nii.gz").unlink()
    whole = Path("maps/sub-05_map.nii.gz").read_bytes()
    Path("maps/sub-05_map.nii.gz").write_bytes(whole[: len(whole) // 2])
    Path("maps/sub-06_map.nii.gz").write_text("no image")
    cohort.loc[7, "map"] = "maps/sub-08_map.nii.gz"
    cohort.loc[9, "participant_id"] = "10"
    cohort["same"] = 1
    cohort.loc[11, "group"] = "alone"
    save(cohort)
    words = ["--formula", "map ~ group + age + same", "--contrast", "old", "--mask", "mask.nii.gz", "--out", "out"]
    said = refused(capsys, *words)
    assert sorted(path.name for path in Path("out").iterdir()) == [
        "bad_inputs.tsv", "dataset_description.json", "provenance.json",
    ]  # fmt: skip
    bad = read("out/bad_inputs.tsv")
    assert bad.columns.tolist() == ["participant_id", "file", "found", "expected"]
    of = {(row.participant_id, Path(row.file).name): f"{row.found}|{row.expected}" for row in bad.itertuples()}
    assert "6x7x9" in of["01", "sub-01_map.nii.gz"]
    assert "2" in of["02", "sub-02_map.nii.gz"]
    assert "voxel size" in of["03", "sub-03_map.nii.gz"]
    assert "no such file" in of["04", "sub-04_map.nii.gz"]
    assert ("05", "sub-05_map.nii.gz") in of
    assert ("06", "sub-06_map.nii.gz") in of
    assert any(row.participant_id == "07" and "sub-08" in row.found for row in bad.itertuples())
    assert "2 rows of 10" in of["10", "participants.tsv"]
    found = bad["found"].tolist()
    assert 'same is "1" for all 12 people' in found
    assert 'level "alone" of group has one person (11)' in found
    for one in found:
        assert one.split("\n")[0][:40] in said
    assert f"{len(bad)} problems in the input" in said


def test_an_unknown_contrast_is_named_with_those_that_exist(cohort, capsys):
    said = refused(capsys, "--formula", FORMULA, "--contrast", "ages", "--contrast", "x=sex", "--contrast", "age")
    assert 'contrast "ages": "ages" is none of the columns of the design' in said
    assert 'contrast "x=sex"' in said
    assert "Intercept, group[T.patient], age" in said
    assert 'did you mean "age"?' in said


def test_contrasts_that_cannot_be_estimated_and_rank(cohort, capsys):
    cohort["months"] = cohort["age"] * 12
    save(cohort)
    formula = "map ~ group + age + months"
    assert run("--formula", formula, "--contrast", "group") == 0
    out = capsys.readouterr().out
    assert "rank 3/4, condition inf, df 9" in out
    assert "warning       months = 12*age: these columns say the same" in out
    said = refused(capsys, "--formula", formula, "--contrast", "age")
    assert "age, months depend on each other" in said


def test_missing_covariates(cohort, capsys):
    cohort["age"] = cohort["age"].astype(object)
    cohort.loc[[2, 5], "age"] = None
    save(cohort)
    said = refused(capsys, "--formula", FORMULA, "--missing", "error")
    assert "02: participants.tsv: no value of age" in said
    assert "05: participants.tsv: no value of age" in said
    assert run("--formula", FORMULA) == 0
    assert "age: 2 (02, 05 -> excluded.tsv)" in capsys.readouterr().out
    assert run("--formula", "map ~ group") == 0
    assert "missing       none " in capsys.readouterr().out


@pytest.mark.parametrize(
    "formula", ["__import__('os').system('touch hacked')", "{group}", "Q('age')", "map ~", "age ** 2.5", "age + `x"]
)
def test_hostile_formulas(cohort, capsys, formula):
    said = refused(capsys, f"--formula={formula}", code=2)
    assert "formula" in said
    assert not Path("hacked").exists()


@pytest.mark.parametrize(
    "words",
    [
        ["--formula", "age", "--design", "d.mat"],
        ["--con", "d.con"],
        ["--formula", "age", "--fts", "d.fts"],
        ["--contrast", "age"],
        ["--min-coverage", "1.5"],
        ["--formula", "age", "--missing", "ignore"],
        ["--nonsense"],
    ],
)
def test_arguments_that_contradict_each_other(cohort, capsys, words):
    refused(capsys, *words, code=2)
    assert not Path("out").exists()


def test_masks(cohort, capsys):
    write("empty.nii.gz", np.zeros((6, 7, 8), np.uint8))
    assert "the mask is empty" in refused(capsys, "--mask", "empty.nii.gz")
    assert "no such file" in refused(capsys, "--mask", "absent.nii.gz")
    write("other.nii.gz", np.ones((5, 5, 5), np.uint8))
    said = refused(capsys, "--mask", "other.nii.gz")  # once, of the mask: not once for each map
    assert f"other.nii.gz: shape 5x5x5; expected shape 6x7x8, which all {N} maps have" in said
    small = np.zeros((6, 7, 8), np.uint8)
    small[0, 0, :2] = 1
    write("small.nii.gz", small)
    for k in range(2):
        name = f"maps/sub-{k:02d}_map.nii.gz"
        data = np.asarray(nibabel.load(name).dataobj).copy()
        data[0, 0, k] = np.nan
        write(name, data)
    assert "no voxel of the mask is finite in 100% of the maps" in refused(
        capsys, "--mask", "small.nii.gz", "--min-coverage", "1"
    )
    assert run("--mask", "small.nii.gz", "--min-coverage", "0.9") == 0
    out = capsys.readouterr().out
    assert "non-finite: 2 voxels in 2 maps" in out
    assert "2 voxels in 90% of the maps, 0 in all" in out


def test_damage_in_the_middle_of_a_map(cohort, capsys):
    """The header is fine and the length is right; only reading shows it."""
    data = np.zeros((6, 7, 8), np.float32)
    write("whole.nii", data)
    packed = bytearray(gzip.compress(Path("whole.nii").read_bytes()))
    packed[-6] ^= 0xFF  # the checksum
    Path("maps/sub-03_map.nii.gz").write_bytes(packed)
    said = refused(capsys, "--formula", FORMULA, "--out", "out")
    assert "sub-03_map.nii.gz" in said
    assert read("out/bad_inputs.tsv")["participant_id"].tolist() == ["03"]
    assert run("--formula", FORMULA, "--headers-only") == 0


def test_outliers_are_warned_of(cohort, capsys):
    write("maps/sub-05_map.nii.gz", np.full((6, 7, 8), 3, np.float32))
    original = np.asarray(nibabel.load("maps/sub-07_map.nii.gz").dataobj)
    write("maps/sub-07_map.nii.gz", -original)
    assert run("--formula", FORMULA, "--out", "out") == 0
    out = capsys.readouterr().out
    assert "outliers      2; correlation with the mean of the others -0." in out
    assert "maps unlike the mean of the others (correlation): 05 (nan), 07 (-0." in out
    maps = read("out/maps.tsv")
    assert maps.loc[maps["outlier"] == "1", "participant_id"].tolist() == ["05", "07"]
    assert maps.loc[5, "correlation"] == "n/a"


def test_maps_that_are_read_twice_give_the_same(cohort, monkeypatch):
    kept = check("participants.tsv").summary
    monkeypatch.setattr("gpuroi.workflows.check._KEPT_BYTES", 0)
    monkeypatch.setattr("gpuroi.cohort.coverage._BLOCK_BYTES", 3 * 8 * 336)
    read = check("participants.tsv").summary
    np.testing.assert_allclose(read.correlation, kept.correlation, rtol=1e-12)
    np.testing.assert_array_equal(read.n_per_element, kept.n_per_element)


def test_tables_are_joined_by_id(cohort, capsys):
    scores = pd.DataFrame({"participant_id": cohort["participant_id"][::-1], "iq": range(N)}).iloc[:-1]
    scores.loc[99] = ["stranger", 7]
    scores.to_csv("iq.csv", index=False)
    result = check("participants.tsv", formula="iq", join=["iq.csv"], look_at_maps=False)
    assert result.design.ids == cohort["participant_id"].tolist()[1:]
    assert result.design.matrix[:, 1].tolist() == list(range(N - 2, -1, -1))
    assert run("--formula", "iq", "--join", "iq.csv") == 0
    out = capsys.readouterr().out
    assert "1 of 12 people are not in iq.csv: 00" in out
    assert "1 ids of iq.csv are not in the cohort: stranger" in out
    assert "iq: 1 (00 -> excluded.tsv)" in out


def test_designs_of_fsl(cohort, capsys):
    age = cohort["age"].to_numpy(float)
    matrix = np.column_stack([np.ones(N), age - age.mean()])
    write_vest("d.mat", matrix)
    write_vest("d.con", np.eye(2), names=["mean", "age"])
    write_vest("d.fts", [[1, 1]])
    write_vest("d.grp", np.repeat([1, 2], 6))
    words = ["--design", "d.mat", "--con", "d.con", "--fts", "d.fts", "--grp", "d.grp"]
    assert run(*words) == 0
    out = capsys.readouterr().out
    assert "ev1, ev2   rank 2/2" in out
    assert "mean (t) = `ev1`, age (t) = `ev2`, f1 (F) = `ev1`; `ev2`" in out
    assert "blocks        2 blocks" in out
    pd.DataFrame({"participant_id": cohort["participant_id"][::-1], "years": age[::-1]}).to_csv("d.csv", index=False)
    result = check("participants.tsv", design="d.csv", contrasts=["years"], look_at_maps=False)
    assert result.design.matrix[:, 0].tolist() == age.tolist()
    write_vest("short.mat", matrix[:5])
    assert "short.mat has 5 rows, participants.tsv 12" in refused(capsys, "--design", "short.mat")


def test_blocks_by_name(cohort, capsys):
    assert run("--formula", FORMULA, "--blocks", "group", "family") == 0
    assert "blocks        2 > 6 blocks" in capsys.readouterr().out
    assert '"familie" is none of the columns' in refused(capsys, "--formula", FORMULA, "--blocks", "familie")


def test_a_table_without_maps(cohort):
    result = check("participants.tsv", formula=FORMULA, map_column=None)
    assert result.summary is None
    assert [name for name, _ in result.facts] == ["participants", "missing", "design"]
    assert result.text.splitlines()[0] == "participants  12 rows"
    result.save("out")
    assert len(read("out/participants_used.tsv")) == N


def test_the_template(cohort, capsys):
    assert run("--map-template", "maps/sub-{participant_id}_map.nii.gz") == 0
    assert "12 maps found, ids match file names" in capsys.readouterr().out
    assert "no such file" in refused(capsys, "--map-template", "maps/sub-{participant_id}.nii.gz")


def test_a_full_disk_leaves_nothing(cohort, monkeypatch):
    result = check("participants.tsv", formula=FORMULA, look_at_maps=False)

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("gpuroi.images.write.write_tsv", full)
    before = sorted(Path().rglob("*"))
    with pytest.raises(OSError, match="No space left"):
        result.save("out")
    assert sorted(Path().rglob("*")) == before


def test_errors_from_python(cohort):
    with pytest.raises(BadInputsError) as caught:
        check("participants.tsv", formula="nope")
    assert caught.value.bad_inputs[0].found.endswith('"nope" is none of the columns')
    with pytest.raises(UsageError, match="both a formula and a design"):
        check("participants.tsv", formula="age", design="d.mat")


def test_flags_are_the_functions_parameters():
    import inspect

    from gpuroi.cli.check import check as command

    renamed = {"contrast": "contrasts", "headers_only": "look_at_maps"}
    flags = {renamed.get(name, name) for name in inspect.signature(command).parameters} - {"out", "overwrite"}
    assert flags == set(inspect.signature(check).parameters)


def test_help_is_light():
    import subprocess

    code = (
        "import sys; from gpuroi.cli import main; main(['check', '--help'])\n"
        "heavy = [m for m in ('formulaic', 'pandas', 'nibabel', 'numba', 'scipy') if m in sys.modules]\n"
        "sys.exit(repr(heavy) if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_real_pairs_of_spm(open_data, tmp_path):
    """Thirty big-endian Analyze pairs with NaN that differ, 4-D with one frame, and a covariate."""
    folder = open_data / "wager2008_emoreg"
    scores = pd.read_csv(folder / "X_Y_data.txt", sep=r"\s+")
    scores.insert(0, "participant_id", [f"{k:02d}" for k in range(1, 31)])
    scores.insert(1, "map", [str(folder / f"con_0081{k:04d}.img") for k in range(1, 31)])
    scores.columns = ["participant_id", "map", "rvlpfc", "success"]
    scores.to_csv("participants.tsv", sep="\t", index=False)
    result = check("participants.tsv", formula="map ~ center(success)", contrasts=["center(success)"])
    assert len(result.participants) == 30
    data = [np.asarray(nibabel.load(path).dataobj, dtype=float)[..., 0].ravel() for path in scores["map"]]
    np.testing.assert_array_equal(result.summary.nonfinite, [np.sum(~np.isfinite(one)) for one in data])
    np.testing.assert_array_equal(result.summary.n_per_element, np.isfinite(data).sum(axis=0))
    assert result.summary.nonfinite.min() == 0
    assert result.summary.covered(1.0).sum() == 75919
    success = scores["success"].to_numpy()
    np.testing.assert_allclose(result.design.matrix[:, 1], success - success.mean(), atol=1e-14)
    golden = pd.read_csv(
        open_data.parents[1] / "golden" / "regression_freedmanlane_n30" / "design.csv", header=None
    ).to_numpy()
    np.testing.assert_allclose(result.design.matrix[:, 1], golden[:, 0], atol=1e-9)
    assert result.description["rank"] == 2
    assert result.description["df"] == 28
    assert "47x56x31 @ 3.44 x 3.44 x 4.50 mm" in result.text


def test_real_lesions(open_data):
    """131 lesion maps of 7 million voxels: headers of all, and the maps of twelve."""
    folder = open_data / "lesymap131"
    score = np.loadtxt(folder / "behavior" / "behavior.txt")
    table = pd.DataFrame({"participant_id": [f"Subject_{k:03d}" for k in range(1, 132)], "score": score})
    save(table)
    template = str(folder / "lesions" / "{participant_id}.nii.gz")
    result = check("participants.tsv", formula="score", contrasts=["score"], map_template=template, look_at_maps=False)
    assert len(result.participants) == 131
    assert result.description["df"] == 129
    save(table.iloc[:6])
    result = check("participants.tsv", formula="score", map_template=template)
    first = np.asarray(nibabel.load(folder / "lesions" / "Subject_001.nii.gz").dataobj)
    assert result.summary.zeros[0] == np.sum(first == 0)
    assert result.summary.covered(1.0).all()
