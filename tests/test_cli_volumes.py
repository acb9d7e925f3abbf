"""The commands of one step, through `main`, against SciPy and nilearn on the same files."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
from nilearn.image import smooth_img, threshold_img
from scipy import ndimage, stats

from gpuroi.cli import main
from gpuroi.errors import DataError, OutputError, UsageError
from gpuroi.workflows import volume_job
from gpuroi.workflows.volumes import dilate_image, label_image, smooth_image, threshold_image, ttest_image

AFFINE = np.array([[-2.0, 0, 0, 20], [0, 3, 0, -30], [0, 0, 4, -10], [0, 0, 0, 1]])
FACES = ndimage.generate_binary_structure(3, 1)


def write(path: str | Path, data: np.ndarray, affine: np.ndarray = AFFINE) -> np.ndarray:
    nibabel.save(nibabel.Nifti1Image(data, affine), path)
    return data


def read(path: str | Path) -> np.ndarray:
    return np.asarray(nibabel.load(path).dataobj)


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def run(*words: object) -> int:
    return main([*(str(word) for word in words), "--device", "cpu"])


def test_threshold_one_sided_with_clusters(here, capsys):
    data = write("map.nii.gz", ndimage.gaussian_filter(noise(12, 11, 10), 1.0) * 10)
    assert (
        run(
            "threshold",
            "map.nii.gz",
            "--threshold",
            1.0,
            "--one-sided",
            "--cluster-threshold",
            4,
            "--out",
            "out.nii.gz",
        )
        == 0
    )
    labels, n = ndimage.label(data >= 1.0, FACES)
    sizes = np.bincount(labels.ravel())
    want = np.where((sizes[labels] >= 4) & (labels > 0), data, 0)
    np.testing.assert_array_equal(read("out.nii.gz"), want)
    assert 0 < np.count_nonzero(want) < (data >= 1.0).sum()
    assert n > 1
    out = capsys.readouterr().out
    assert "device     cpu" in out
    assert "threshold  x >= 1" in out
    assert f"kept       {np.count_nonzero(want)} voxels" in out
    assert "written    out.nii.gz" in out


def test_threshold_percentile_in_a_mask_volume_by_volume(here):
    data = write("run.nii.gz", noise(7, 6, 5, 3))
    mask = write("mask.nii.gz", (noise(7, 6, 5, seed=1) > 0).astype(np.uint8)) > 0
    assert run("threshold", "run.nii.gz", "--threshold", "80%", "--mask", "mask.nii.gz", "--out", "out.nii.gz") == 0
    got = read("out.nii.gz")
    for i in range(3):
        volume = data[..., i]
        cutoff = np.percentile(np.abs(volume[mask]).astype(float), 80)
        np.testing.assert_array_equal(got[..., i], np.where(mask & (np.abs(volume) >= cutoff), volume, 0))


def test_threshold_keeps_float64(here):
    data = write("map.nii.gz", np.full((3, 3, 3), 0.1, np.float64))
    assert run("threshold", "map.nii.gz", "--cutoff", "0.1", "--out", "out.nii") == 0
    got = read("out.nii")
    assert got.dtype == np.float64
    np.testing.assert_array_equal(got, data)


def test_nothing_survives_and_that_is_no_error(here, capsys):
    write("map.nii.gz", noise(4, 4, 4))
    assert run("threshold", "map.nii.gz", "--threshold", 99, "--out", "out.nii.gz") == 0
    assert not read("out.nii.gz").any()
    assert "kept       nothing reaches the threshold" in capsys.readouterr().out
    assert run("label", "out.nii.gz", "--out", "labels.nii.gz") == 0
    assert not read("labels.nii.gz").any()
    assert "found    none: the mask is empty" in capsys.readouterr().out


@pytest.mark.parametrize("words", [["6"], ["6", "6", "9"]])
def test_smooth_as_nilearn(here, words):
    write("run.nii.gz", noise(12, 11, 10, 2))
    assert run("smooth", "run.nii.gz", "--fwhm", *words, "--out", "out.nii.gz") == 0
    fwhm = float(words[0]) if len(words) == 1 else [float(word) for word in words]
    want = smooth_img("run.nii.gz", fwhm).get_fdata()
    np.testing.assert_allclose(read("out.nii.gz"), want, rtol=0, atol=2e-6)
    np.testing.assert_array_equal(nibabel.load("out.nii.gz").affine, AFFINE)


def test_ttest_between_conditions(here, capsys):
    data = write("bold.nii.gz", noise(6, 5, 4, 20) + 100)
    labels = np.array(["face", "house", "rest", "x-ray"] * 5)
    Path("labels.txt").write_text("\n".join(f"{label} 0" for label in labels))
    words = ["--contrast", "face-house", "--out", "t.nii.gz", "--out-log10p", "p.nii.gz"]
    assert run("ttest", "bold.nii.gz", "--labels", "labels.txt", *words) == 0
    data = data.astype(float)  # SciPy sums in the type of the data
    want = stats.ttest_ind(data[..., labels == "face"], data[..., labels == "house"], axis=-1)
    np.testing.assert_allclose(read("t.nii.gz"), want.statistic, rtol=2e-5, atol=2e-5)
    np.testing.assert_allclose(read("p.nii.gz"), -np.log10(want.pvalue), rtol=1e-4, atol=1e-6)
    out = capsys.readouterr().out
    assert "observations  face 5, house 5" in out
    assert "df            8" in out


def test_ttest_between_conditions_of_two_runs_with_events(here):
    first, second = (write(f"run{i}.nii.gz", noise(4, 4, 3, 12, seed=i)) for i in (1, 2))
    for i in (1, 2):
        Path(f"run{i}.tsv").write_text(f"onset\tduration\ttrial_type\n{2 * i}\t6\ta b\n12\t8\tc\n")
    words = ["--contrast", "a b-c", "--tr", 2, "--welch", "--out", "t.nii.gz"]
    assert run("ttest", "run1.nii.gz", "run2.nii.gz", "--conditions", "run1.tsv", "run2.tsv", *words) == 0
    a = np.concatenate([first[..., 1:4], second[..., 2:5]], axis=-1)
    c = np.concatenate([first[..., 6:10], second[..., 6:10]], axis=-1)
    want = stats.ttest_ind(a, c, axis=-1, equal_var=False).statistic
    np.testing.assert_allclose(read("t.nii.gz"), want, rtol=2e-5, atol=2e-5)
    counts = json.loads(Path("t.json").read_text())["counts"]
    assert counts["observations"] == {"a b": 6, "c": 8}
    assert counts["df"] is None


def test_ttest_of_one_set_in_a_mask(here, capsys):
    maps = [write(f"sub-{i}.nii.gz", noise(5, 4, 3, seed=i)) for i in range(1, 7)]
    mask = write("mask.nii.gz", (noise(5, 4, 3, seed=9) > 0).astype(np.uint8)) > 0
    words = ["--popmean", 0.5, "--alternative", "greater", "--mask", "mask.nii.gz", "--out", "t.nii.gz"]
    assert run("ttest", *(f"sub-{i}.nii.gz" for i in range(1, 7)), *words) == 0
    want = stats.ttest_1samp(np.stack(maps), 0.5).statistic
    np.testing.assert_allclose(read("t.nii.gz"), np.where(mask, want, 0), rtol=2e-5, atol=2e-5)
    assert "test          one-sample, greater" in capsys.readouterr().out


@pytest.mark.parametrize("paired", [True, False])
def test_ttest_of_two_sets(here, paired):
    a, b = write("a.nii.gz", noise(5, 4, 3, 8)), write("b.nii.gz", noise(5, 4, 3, 8, seed=1))
    assert run("ttest", "a.nii.gz", "--versus", "b.nii.gz", *["--paired"] * paired, "--out", "t.nii.gz") == 0
    want = (stats.ttest_rel if paired else stats.ttest_ind)(a, b, axis=-1).statistic
    np.testing.assert_allclose(read("t.nii.gz"), want, rtol=2e-5, atol=2e-5)


def test_ttest_leaves_nan_where_there_is_no_test(here, capsys):
    data = noise(3, 3, 3, 6)
    data[0, 0, 0] = 0
    data[1, 1, 1, 2] = np.nan
    write("run.nii.gz", data)
    assert run("ttest", "run.nii.gz", "--out", "t.nii.gz") == 0
    assert np.argwhere(np.isnan(read("t.nii.gz"))).tolist() == [[0, 0, 0], [1, 1, 1]]
    assert "2 voxels, where the data hold NaN or do not vary" in capsys.readouterr().out
    assert run("ttest", "run.nii.gz", "--nan-policy", "omit", "--out", "omit.nii.gz") == 0
    want = stats.ttest_1samp(data[1, 1, 1], 0, nan_policy="omit").statistic
    assert read("omit.nii.gz")[1, 1, 1] == pytest.approx(want, rel=1e-5)


@pytest.mark.parametrize(("iterations", "connectivity"), [(1, 6), (2, 18), (1, 26)])
def test_dilate(here, iterations, connectivity):
    seeds = write("seeds.nii.gz", (noise(9, 8, 7, 2) > 2.2).astype(np.int16) * 5)
    mask = write("mask.nii.gz", (noise(9, 8, 7, seed=1) > -1).astype(np.uint8)) > 0
    words = ["--iterations", iterations, "--connectivity", connectivity, "--mask", "mask.nii.gz", "--out", "out.nii.gz"]
    assert run("dilate", "seeds.nii.gz", *words) == 0
    structure = ndimage.generate_binary_structure(3, {6: 1, 18: 2, 26: 3}[connectivity])
    got = read("out.nii.gz")
    assert got.dtype == np.uint8
    for i in range(2):
        want = ndimage.binary_dilation(seeds[..., i] != 0, structure, iterations, mask)
        np.testing.assert_array_equal(got[..., i], want)


def test_nan_is_outside_a_mask(here):
    data = np.zeros((5, 5, 5), np.float32)
    data[1, 1, 1], data[3, 3, 3] = 1, np.nan
    write("seeds.nii.gz", data)
    assert run("dilate", "seeds.nii.gz", "--out", "out.nii.gz") == 0
    assert read("out.nii.gz").sum() == 7


@pytest.mark.parametrize(
    "words",
    [
        ["threshold", "empty.nii.gz", "--threshold", 1],
        ["threshold", "empty.nii.gz", "--threshold", "97%"],
        ["smooth", "empty.nii.gz", "--fwhm", 4],
        ["dilate", "empty.nii.gz"],
        ["label", "empty.nii.gz"],
        ["ttest", "run.nii.gz", "empty.nii.gz"],
        ["ttest", "run.nii.gz", "--versus", "empty.nii.gz"],
        ["ttest", "empty.nii.gz", "--conditions", "labels.txt", "--contrast", "a-b"],
    ],
    ids=lambda words: " ".join(map(str, words)),
)
def test_an_image_of_nothing_but_nan_is_65_and_leaves_nothing(here, capsys, words):
    write("run.nii.gz", noise(5, 4, 3, 4))
    write("empty.nii.gz", np.full((5, 4, 3, 4), np.nan, np.float32))
    (here / "labels.txt").write_text("a 0\na 0\nb 0\nb 0\n")
    before = sorted(here.iterdir())
    assert run(*words, "--out", "out.nii.gz") == 65
    said = capsys.readouterr().err
    assert "empty.nii.gz: all values are NaN" in said
    assert "leave this image out" in said
    assert sorted(here.iterdir()) == before


@pytest.mark.parametrize("connectivity", [6, 18, 26])
def test_label(here, capsys, connectivity):
    mask = write("mask.nii.gz", (noise(9, 8, 7) > 0.7).astype(np.uint8))
    assert run("label", "mask.nii.gz", "--connectivity", connectivity, "--out", "labels.nii.gz") == 0
    want, n = ndimage.label(mask, ndimage.generate_binary_structure(3, {6: 1, 18: 2, 26: 3}[connectivity]))
    got = read("labels.nii.gz")
    assert got.dtype == np.int32
    np.testing.assert_array_equal(got, want)
    assert f"found    {n} components" in capsys.readouterr().out


def test_label_refuses_a_statistical_map(here, capsys):
    write("map.nii.gz", noise(4, 4, 4))
    assert run("label", "map.nii.gz", "--out", "labels.nii.gz") == 65
    err = capsys.readouterr().err
    assert "map.nii.gz has positive and negative values" in err
    assert "gpuroi regions" in err
    assert not Path("labels.nii.gz").exists()


def test_the_sidecar_says_what_was_done(here):
    write("mask.nii.gz", np.ones((3, 3, 3), np.uint8))
    write("map.nii.gz", noise(3, 3, 3))
    assert run("threshold", "map.nii.gz", "--threshold", "1.5", "--mask", "mask.nii.gz", "--out", "out.nii.gz") == 0
    record = json.loads(Path("out.json").read_text())
    assert record["settings"] == {
        "threshold": 1.5,
        "two_sided": True,
        "cluster_threshold": 0,
        "min_size_mm3": 0.0,
        "connectivity": 6,
        "mask": "mask.nii.gz",
    }
    assert record["device"] == "cpu"
    assert record["gpuroi_version"]
    digests = [entry["sha256"] for entry in record["inputs"]]
    assert digests == [hashlib.sha256(Path(n).read_bytes()).hexdigest() for n in ("map.nii.gz", "mask.nii.gz")]
    assert {path.name for path in here.iterdir()} == {"map.nii.gz", "mask.nii.gz", "out.nii.gz", "out.json"}


def test_results_do_not_depend_on_the_memory_limit(here, capsys):
    write("run.nii.gz", noise(8, 7, 6, 9))
    Path("labels.txt").write_text("\n".join("aab" * 3))
    for limit, name in (("1KB", "small"), ("1GB", "large")):
        words = ["--memory-limit", limit, "--out"]
        assert run("smooth", "run.nii.gz", "--fwhm", 5, *words, f"{name}-s.nii") == 0
        assert run("threshold", "run.nii.gz", "--threshold", "90%", *words, f"{name}-h.nii") == 0
        ttest = ["ttest", "run.nii.gz", "--conditions", "labels.txt", "--contrast", "a-b"]
        assert run(*ttest, *words, f"{name}-t.nii", "--out-log10p", f"{name}-p.nii") == 0
        assert run("label", f"{name}-p.nii", *words, f"{name}-l.nii") == 0
        assert run("dilate", f"{name}-l.nii", *words, f"{name}-d.nii") == 0
    for kind in "shtpld":
        assert Path(f"small-{kind}.nii").read_bytes() == Path(f"large-{kind}.nii").read_bytes()


def test_every_backend_writes_the_same(here, backend, monkeypatch):
    """Through the files, also on the stand-in for a device: what lies there never meets what lies here."""
    monkeypatch.setattr(volume_job, "get_backend", lambda device: backend)
    data = write("run.nii.gz", noise(6, 5, 4, 8))
    mask = write("mask.nii.gz", (noise(6, 5, 4, seed=1) > -1).astype(np.uint8)) > 0
    threshold_image("run.nii.gz", "h.nii.gz", threshold=1.0, mask="mask.nii.gz")
    np.testing.assert_array_equal(read("h.nii.gz"), np.where(mask[..., None] & (abs(data) >= 1), data, 0))
    label_image("mask.nii.gz", "l.nii.gz", connectivity=18)
    np.testing.assert_array_equal(read("l.nii.gz"), ndimage.label(mask, ndimage.generate_binary_structure(3, 2))[0])
    dilate_image("mask.nii.gz", "d.nii.gz", mask="mask.nii.gz")
    np.testing.assert_array_equal(read("d.nii.gz"), mask)
    ttest_image("run.nii.gz", "t.nii.gz", mask="mask.nii.gz")
    np.testing.assert_allclose(
        read("t.nii.gz"), np.where(mask, stats.ttest_1samp(data, 0, axis=-1).statistic, 0), rtol=2e-5, atol=2e-5
    )
    smooth_image("run.nii.gz", "s.nii.gz", fwhm=6.0)
    np.testing.assert_allclose(read("s.nii.gz"), smooth_img("run.nii.gz", 6).get_fdata(), rtol=0, atol=2e-6)


def test_in_memory_images_are_taken_too(here):
    image = nibabel.Nifti1Image(noise(4, 4, 4), AFFINE)
    result = threshold_image(image, "out.nii.gz", threshold=1.0, device="cpu")
    assert result.paths == (Path("out.nii.gz"),)
    assert result.n_volumes == 1
    kept = int((abs(noise(4, 4, 4)) >= 1).sum())
    assert result.counts == {"voxels_kept": [kept], "cutoff": [1.0], "rule": "|x| >= 1"}
    assert json.loads(Path("out.json").read_text())["inputs"] == [{"in_memory": "Image", "shape": [4, 4, 4]}]


BAD_TTESTS = {
    "contrast alone": (["--contrast", "a-b"], 2, "contrast is given without conditions"),
    "conditions alone": (["--conditions", "labels.txt"], 2, "conditions is given without contrast"),
    "paired alone": (["--paired"], 2, "a paired test needs two samples"),
    "Welch alone": (["--welch"], 2, "Welch's test compares two independent samples"),
    "popmean and two": (["--versus", "run.nii.gz", "--popmean", "1"], 2, "popmean is 1, but two samples are compared"),
    "three ways": (
        ["--conditions", "labels.txt", "--contrast", "a-b", "--versus", "run.nii.gz"],
        2,
        "both conditions and a second set",
    ),
    "no such condition": (
        ["--conditions", "labels.txt", "--contrast", "a-q"],
        65,
        '"q" does not occur',
    ),
    "unequal pairs": (
        ["--conditions", "labels.txt", "--contrast", "a-b", "--paired"],
        65,
        "a paired test needs two samples of one size, got 4 (a) and 2 (b) volumes",
    ),
    "two label files": (
        ["--conditions", "labels.txt", "labels.txt", "--contrast", "a-b"],
        65,
        "1 images, but 2 label files",
    ),
    "other grid": (["--versus", "other.nii.gz"], 65, "other.nii.gz"),
    "a single volume": (["--versus", "one.nii.gz", "--paired"], 65, "of one size, got 6 (images) and 1 (versus)"),
}


@pytest.mark.parametrize("case", BAD_TTESTS)
def test_ttests_that_make_no_sense(here, capsys, case):
    words, code, message = BAD_TTESTS[case]
    write("run.nii.gz", noise(3, 3, 3, 6))
    write("one.nii.gz", noise(3, 3, 3))
    write("other.nii.gz", noise(3, 3, 4, 6))
    Path("labels.txt").write_text("a\na\nb\nb\na\na\n")
    before = sorted(here.iterdir())
    assert run("ttest", "run.nii.gz", *words, "--out", "t.nii.gz") == code
    assert message in capsys.readouterr().err
    assert sorted(here.iterdir()) == before


def test_one_volume_has_no_test(here, capsys):
    write("one.nii.gz", noise(3, 3, 3))
    assert run("ttest", "one.nii.gz", "--out", "t.nii.gz") == 65
    assert "too few volumes for a t-test: 1 (images)" in capsys.readouterr().err


def test_an_input_is_never_replaced(here, capsys):
    data = write("map.nii.gz", noise(3, 3, 3))
    assert run("smooth", "map.nii.gz", "--fwhm", 4, "--out", "map.nii.gz", "--overwrite") == 2
    assert "is an input too" in capsys.readouterr().err
    np.testing.assert_array_equal(read("map.nii.gz"), data)


def test_functions_raise_what_the_commands_report(here):
    write("map.nii.gz", noise(3, 3, 3))
    with pytest.raises(UsageError, match="iterations is -1"):
        dilate_image("map.nii.gz", "out.nii.gz", iterations=-1)
    with pytest.raises(UsageError, match="fwhm has 2 numbers"):
        smooth_image("map.nii.gz", "out.nii.gz", fwhm=[1, 2])
    with pytest.raises(OutputError, match="images are written as NIfTI"):
        smooth_image("map.nii.gz", "out.png", fwhm=2.0)
    with pytest.raises(UsageError, match="two outputs have the same name"):
        ttest_image(["map.nii.gz", "map.nii.gz"], "t.nii.gz", out_log10p="t.nii.gz")
    with pytest.raises(DataError, match=r"missing\.nii\.gz: no such file"):
        label_image("missing.nii.gz", "out.nii.gz")
    with pytest.raises(UsageError, match="memory limit"):
        label_image("map.nii.gz", "out.nii.gz", memory_limit="lots")


def test_a_real_map_as_nilearn(here):
    folder = Path(__file__).resolve().parents[1].parent / "shared" / "data" / "open" / "epi_oro"
    if not folder.is_dir():
        pytest.skip(f"no real images at {folder}")
    words = ["--threshold", 2.3, "--cluster-threshold", 10, "--out", "out.nii.gz"]
    assert run("threshold", folder / "zstat1.nii.gz", *words) == 0
    want = threshold_img(folder / "zstat1.nii.gz", 2.3, cluster_threshold=10, copy_header=True)
    np.testing.assert_array_equal(read("out.nii.gz"), want.get_fdata())
    assert np.count_nonzero(read("out.nii.gz")) > 0
    np.testing.assert_allclose(nibabel.load("out.nii.gz").affine, want.affine, rtol=0, atol=1e-6)
