"""NiftiMasker and NiftiLabelsMasker: nilearn's results on real images, scikit-learn's and nilearn's rules."""

from __future__ import annotations

import inspect
import pickle
import subprocess
import sys
import warnings

import nibabel
import nilearn.maskers
import nilearn.masking
import nilearn.signal
import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone

from gpuroi.errors import UsageError
from gpuroi.nilearn import NiftiLabelsMasker, NiftiMasker

RUN = "haxby2001_pymvpa/haxby2001/sub001/BOLD/task001_run{:03d}/bold_25mm.nii.gz"
MASKS = "haxby2001_pymvpa/haxby2001/sub001/masks/25mm"
PAIRS = {NiftiMasker: nilearn.maskers.NiftiMasker, NiftiLabelsMasker: nilearn.maskers.NiftiLabelsMasker}


@pytest.fixture
def run(open_data):
    """121 volumes of 6 x 10 x 10 voxels."""
    return open_data / RUN.format(1)


@pytest.fixture
def brain(open_data):
    return open_data / MASKS / "brain.nii.gz"


@pytest.fixture
def regions(open_data):
    """Harvard-Oxford labels on the grid of the run."""
    return open_data / MASKS / "hoc.nii.gz"


def quietly(function, *args, **kwargs):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return function(*args, **kwargs)


def nifti(values, affine=None):
    return nibabel.Nifti1Image(values, np.eye(4) if affine is None else affine)


def data(img):
    return np.asanyarray(img.dataobj)


def same_signals(got, want, tolerance=2e-5):
    """Equal but for rounding in float32, the type of nilearn's signals."""
    assert got.shape == want.shape
    assert got.dtype == want.dtype
    assert_allclose(got, want, rtol=0, atol=tolerance * max(1e-3, np.abs(want).max()))


def same_images(got, want, tolerance=0.0):
    assert got.shape == want.shape
    assert data(got).dtype == data(want).dtype
    assert_array_equal(got.affine, want.affine)
    assert_allclose(data(got), data(want), rtol=0, atol=tolerance * max(1e-3, np.abs(data(want)).max()))


CLEANING = [
    {},
    {"standardize": "zscore_sample"},
    {"standardize": "psc"},
    {"detrend": True},
    {"low_pass": 0.1, "high_pass": 0.01, "t_r": 2.5, "standardize": "zscore_sample"},
    {"high_pass": 0.02, "t_r": 2.5, "clean_args": {"filter": "cosine"}, "detrend": True},
    {"high_variance_confounds": True, "detrend": True},
    {"smoothing_fwhm": 40.0, "standardize": "zscore_sample"},
    {"dtype": "float64", "standardize": "zscore_sample"},
]


# ------------------------------------------------------------------ NiftiMasker


@pytest.mark.parametrize("options", CLEANING, ids=str)
def test_signals_of_voxels(run, brain, options, device):
    options = {"standardize": None, **options}
    got = NiftiMasker(brain, **options).fit().transform(run, confounds=np.arange(121.0) ** 2)
    want = quietly(PAIRS[NiftiMasker](str(brain), **options).fit().transform, str(run), confounds=np.arange(121.0) ** 2)
    # nilearn cleans in float32: signals with a mean of 16 000 lose four digits there.
    same_signals(got, want, 1e-3)
    if "smoothing_fwhm" not in options and "high_variance_confounds" not in options:
        rows = nilearn.masking.apply_mask(run, brain).astype(np.float64)
        steps = {"detrend": False, "t_r": None, **options}
        kept = steps.pop("dtype", None)
        want = nilearn.signal.clean(rows, confounds=np.arange(121.0) ** 2, **steps.pop("clean_args", {}), **steps)
        same_signals(got, want.astype(kept or np.float32), 1e-6)


def test_whole_session_with_runs(open_data):
    folder = open_data / "haxby2001_pymvpa"
    runs = np.loadtxt(folder / "attributes.txt")[:, 1].astype(int)
    keep = [np.setdiff1d(np.arange((runs == run).sum()), [3, 50]) for run in np.unique(runs)]
    options = {"runs": runs, "detrend": True, "standardize": "zscore_sample", "high_pass": 0.01, "t_r": 2.5}
    for sample_mask in (None, keep):
        got = NiftiMasker(folder / "mask.nii.gz", **options).fit().transform(folder / "bold.nii.gz", None, sample_mask)
        theirs = PAIRS[NiftiMasker](folder / "mask.nii.gz", **options).fit()
        want = quietly(theirs.transform, folder / "bold.nii.gz", None, sample_mask)
        same_signals(got, want, 1e-3)


def test_list_of_files_is_one_series(open_data, brain, tmp_path):
    whole = nibabel.load(open_data / RUN.format(2))
    paths = [tmp_path / f"map_{i:02d}.nii.gz" for i in range(12)]
    for i, path in enumerate(paths):
        nibabel.save(whole.slicer[..., i], path)
    want = quietly(PAIRS[NiftiMasker](brain, standardize=None).fit().transform, [str(p) for p in paths])
    for given in (paths, [str(p) for p in paths], str(tmp_path / "map_*.nii.gz"), (p for p in paths)):
        assert_array_equal(NiftiMasker(brain, standardize=None).fit().transform(given), want)
    single = NiftiMasker(brain, standardize=None).fit().transform(paths[3])
    assert_array_equal(single, want[3])
    assert single.ndim == 1


@pytest.mark.parametrize("strategy", ["background", "epi"])
@pytest.mark.parametrize("image", ["epi_oro/filtered_func_data.nii.gz", RUN.format(3)])
def test_mask_from_images(open_data, strategy, image, device):
    if device == "cuda" and "epi_oro" in image:
        image = RUN.format(4)
    options = {"mask_strategy": strategy, "standardize": None}
    if "BOLD" in image:
        options["mask_args"] = {"opening": 0}
    ours = NiftiMasker(**options).fit(open_data / image)
    theirs = quietly(PAIRS[NiftiMasker](**options).fit, open_data / image)
    same_images(ours.mask_img_, theirs.mask_img_)
    assert ours.n_elements_ == theirs.n_elements_
    assert_array_equal(ours.affine_, theirs.affine_)


@pytest.mark.parametrize("tissue", ["whole-brain", "gm", "wm"])
def test_mask_from_the_template(open_data, tissue):
    image = open_data / "epi_oro" / "zstat1.nii.gz"
    atlas = open_data / "atlas" / "HarvardOxford-cort-maxprob-thr25-2mm.nii.gz"
    for target in (atlas, image):
        options = {"mask_strategy": f"{tissue}-template", "mask_args": {"threshold": 0.3}}
        try:
            theirs = quietly(PAIRS[NiftiMasker](**options).fit, target)
        except ValueError:
            with pytest.raises(ValueError, match="masks all data"):
                quietly(NiftiMasker(**options).fit, target)
        else:
            same_images(NiftiMasker(**options).fit(target).mask_img_, theirs.mask_img_)


def test_images_go_to_the_grid_of_the_mask(run, brain, device):
    big = nibabel.load(brain)
    small = nifti(data(big)[1:-1, 2:-1, 1:].astype(np.uint8), big.affine @ np.diag([0.9, 0.9, 1.1, 1]))
    for smoothing in (None, 50.0):
        options = {"smoothing_fwhm": smoothing, "standardize": None}
        with pytest.warns(UserWarning, match="imgs are being resampled to the mask_img resolution|Casting data"):
            got = NiftiMasker(small, **options).fit().transform(run)
        want = quietly(PAIRS[NiftiMasker](small, **options).fit().transform, run)
        same_signals(got, want)


@pytest.mark.parametrize(("affine", "shape"), [(np.diag([50.0, 50, 50]), None), ("4x4", (4, 5, 6)), ("list", None)])
def test_target_grid(run, brain, affine, shape):
    given = nibabel.load(brain).affine * [[1.5, 1.5, 1.5, 1]]
    affine = {"4x4": given, "list": given[:3, :3].tolist()}.get(affine, affine) if isinstance(affine, str) else affine
    options = {"target_affine": affine, "target_shape": shape, "standardize": None}
    ours, theirs = (kind(brain, **options).fit() for kind in (NiftiMasker, PAIRS[NiftiMasker]))
    same_images(ours.mask_img_, theirs.mask_img_)
    assert_array_equal(ours.affine_, theirs.affine_)
    same_signals(quietly(ours.transform, run), quietly(theirs.transform, run))


def test_there_and_back(run, brain):
    ours, theirs = NiftiMasker(brain, standardize=None).fit(), PAIRS[NiftiMasker](brain, standardize=None).fit()
    signals = ours.transform(run)
    for rows in (signals, signals[0], signals.astype(np.int32), pd.DataFrame(signals)):
        same_images(ours.inverse_transform(rows), quietly(theirs.inverse_transform, rows))
    assert_array_equal(ours.transform(ours.inverse_transform(signals)), signals)


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"mask_strategy": "oops"}, UsageError, "Unknown value of mask_strategy 'oops'"),
        ({"standardize": "zscore"}, UsageError, "'standardize' must be one of"),
        ({"dtype": bool}, TypeError, "'dtype' cannot be bool"),
        ({"detrend": "yes"}, TypeError, "'detrend' must be of type"),
        ({"memory": 3}, TypeError, "'memory' must be of type"),
        ({"memory": "/nowhere/at/all/cache"}, ValueError, "parent directory doesn't exist"),
        ({"target_affine": [1, 2, 3]}, np.linalg.LinAlgError, r"shape \(3,\); expected"),
        ({"mask_img": "nowhere.nii.gz"}, ValueError, "File not found"),
        ({"mask_img": 5}, TypeError, "NiftiLike"),
    ],
)
def test_parameters_refused(run, options, error, match):
    with pytest.raises(error, match=match):
        NiftiMasker(**options).fit(run)


def test_input_refused(run, brain, open_data):
    masker = NiftiMasker(brain, standardize=None)
    with pytest.raises(ValueError, match="not fitted yet"):
        masker.transform(run)
    masker.fit()
    for imgs, error, match in (
        ([run, run], TypeError, "list of 4D images"),
        ("nowhere.nii.gz", ValueError, "File not found"),
        (np.ones((6, 10, 10)), TypeError, "NiftiLike"),
        (nifti(np.ones((6, 10, 0))), ValueError, "The image is empty"),
    ):
        with pytest.raises(error, match=match):
            masker.transform(imgs)
    with pytest.raises(ValueError, match="Input to 'inverse_transform' has wrong shape"):
        masker.inverse_transform(np.ones((2, 3)))
    with pytest.raises(ValueError, match="masks all data"):
        NiftiMasker(nifti(np.zeros((6, 10, 10)))).fit()
    with pytest.raises(ValueError, match="'imgs' must be provided"):
        NiftiMasker().fit()


def test_warnings(run, brain):
    with pytest.warns(RuntimeWarning, match="Generation of a mask has been requested") as record:
        masker = NiftiMasker(brain).fit(run)
    assert record[0].filename == __file__
    with pytest.warns(FutureWarning, match="boolean values for 'standardize'"):
        masker.transform(run)
    with pytest.warns(UserWarning, match=r"not supported by the masking strategy 'background': \['lower_cutoff'\]"):
        NiftiMasker(mask_args={"lower_cutoff": 0.1, "opening": 0}).fit(run)
    with pytest.warns(UserWarning, match="Casting boolean input"):
        masker.inverse_transform(np.ones(masker.n_elements_, bool))


def test_messages(run, brain, capsys):
    NiftiMasker(brain, standardize=None).fit().transform(run)
    assert capsys.readouterr().out == ""
    masker = NiftiMasker(brain, standardize=None, verbose=1, smoothing_fwhm=30).fit()
    masker.inverse_transform(masker.transform(run))
    said = capsys.readouterr().out
    for text in ("Loading mask", "Finished fit", "Smoothing", "Extracting", "Cleaning", "Computing image"):
        assert said.count(text) == 1


# ------------------------------------------------------------------ NiftiLabelsMasker


def described(masker):
    """What a masker says of its columns."""
    table = masker.lut_[["index", "name"]]
    ids = masker.region_ids_
    return table.to_numpy().tolist(), masker.n_elements_, masker.labels_, masker.region_names_, ids


@pytest.mark.parametrize("options", CLEANING, ids=str)
def test_signals_of_regions(run, regions, options, device):
    options = {"standardize": None, **options}
    ours, theirs = (kind(regions, **options) for kind in (NiftiLabelsMasker, PAIRS[NiftiLabelsMasker]))
    got, want = (quietly(one.fit_transform, run, confounds=np.arange(121.0) ** 2) for one in (ours, theirs))
    # Smoothed images are float32, with a mean of 16 000; nilearn finds confounds of integer images in float32.
    same_signals(got, want, 1e-3 if "smoothing_fwhm" in options else 1e-5)
    assert described(ours) == described(theirs)
    same_images(ours.region_atlas_, theirs.region_atlas_)


@pytest.mark.parametrize("strategy", ["mean", "median", "sum", "minimum", "maximum", "standard_deviation", "variance"])
@pytest.mark.parametrize("keep_masked_labels", [False, True])
def test_strategies_within_a_mask(run, regions, open_data, strategy, keep_masked_labels):
    options = {"mask_img": open_data / MASKS / "gray.nii.gz", "strategy": strategy, "standardize": None}
    options["keep_masked_labels"] = keep_masked_labels
    ours, theirs = (kind(regions, **options) for kind in (NiftiLabelsMasker, PAIRS[NiftiLabelsMasker]))
    got, want = (quietly(one.fit_transform, run) for one in (ours, theirs))
    same_signals(got, want, 1e-5)
    assert described(ours) == described(theirs)
    same_images(ours.mask_img_, theirs.mask_img_)
    painted = quietly(ours.inverse_transform, got)
    if not keep_masked_labels:
        same_images(painted, quietly(theirs.inverse_transform, got))
    # With columns of lost regions nilearn paints others with them: here a region has its own signal.
    labels = data(ours.region_atlas_)
    for column, label in enumerate(label for label in ours.labels_ if label != 0):
        assert_array_equal(
            data(painted)[labels == label], np.broadcast_to(got[:, column], ((labels == label).sum(), 121))
        )
    assert not data(painted)[labels == 0].any()


ATLASES = ["HarvardOxford-cort-maxprob-thr25-2mm", "Yeo_17_Liberal_2mm_split", "schaefer200x7MNI"]


@pytest.mark.parametrize("target", ["data", "labels"])
@pytest.mark.parametrize("atlas", ATLASES)
def test_atlases_and_maps_of_other_grids(open_data, atlas, target):
    atlas = open_data / "atlas" / f"{atlas}.nii.gz"
    image = open_data / "statmaps" / "motor_lips_nan.nii.gz"
    options = {"resampling_target": target, "standardize": None}
    for fit_first in (True, False):
        ours, theirs = (kind(atlas, **options) for kind in (NiftiLabelsMasker, PAIRS[NiftiLabelsMasker]))
        try:
            quietly(theirs.fit, image if fit_first else None)
            want = quietly(theirs.transform, image)
        except ValueError as error:
            with pytest.raises(ValueError, match=str(error).split("\n")[0]):
                quietly(lambda one=ours: one.fit(image if fit_first else None).transform(image))
            continue
        quietly(ours.fit, image if fit_first else None)
        same_signals(quietly(ours.transform, image), want, 1e-5)
        same_images(ours.labels_img_, theirs.labels_img_)
        assert described(ours) == described(theirs)


def test_labels_that_a_byte_does_not_hold():
    """A mask of bytes left labels above 127 wrapped in nilearn (its issue 6447), and sparse names misplaced (6445)."""
    labels = np.zeros((4, 4, 4), np.int32)
    labels[0], labels[1], labels[2, :2], labels[3] = 5, 128, 300, 70000
    mask = np.ones(labels.shape, np.int8)
    mask[1] = 0
    volumes = np.random.default_rng(0).standard_normal((4, 4, 4, 6))
    lut = pd.DataFrame({"index": [70000, 300, 128, 5, 0], "name": ["far", "near", "lost", "low", "Background"]})
    masker = NiftiLabelsMasker(nifti(labels), lut=lut, mask_img=nifti(mask), standardize=None)
    with pytest.warns(UserWarning, match=r"labels were removed: \{128\}"):
        signals = masker.fit_transform(nifti(volumes))
    assert masker.region_names_ == {0: "low", 1: "near", 2: "far"}
    assert masker.region_ids_ == {"background": 0, 0: 5, 1: 300, 2: 70000}
    assert_allclose(signals, np.stack([volumes[labels == i].mean(axis=0) for i in (5, 300, 70000)], axis=1))
    assert_array_equal(data(masker.region_atlas_), np.where(mask, labels, 0))
    painted = data(quietly(masker.inverse_transform, signals))
    assert_allclose(painted[2, 0, 0], signals[:, 1])
    assert (painted[1] == 0).all()
    masker.set_params(mask_img=None).fit()
    assert masker.region_names_ == {0: "low", 1: "lost", 2: "near", 3: "far"}  # nothing is left of the last transform


@pytest.mark.parametrize("form", ["frame", "csv", "tsv", "labels", "labels with background"])
def test_names(run, regions, tmp_path, form):
    ids = np.unique(data(nibabel.load(regions)))
    lut = pd.DataFrame({"index": ids, "name": ["Background", *(f"area {i}" for i in ids[1:])], "color": "#ffffff"})
    given = {"labels": list(lut["name"][1:])}
    if form == "labels with background":
        given = {"labels": ["background", *lut["name"][1:]]}
    elif form != "labels":
        shuffled = lut.sample(frac=1, random_state=0)
        given = {"lut": shuffled if form == "frame" else tmp_path / f"lut.{form}"}
        if form != "frame":
            shuffled.to_csv(given["lut"], index=False, sep="," if form == "csv" else "\t")
    ours, theirs = (kind(regions, **given, standardize=None) for kind in (NiftiLabelsMasker, PAIRS[NiftiLabelsMasker]))
    names = list(given.get("labels", []))
    ours.fit_transform(run)
    assert given.get("labels", []) == names
    quietly(theirs.fit_transform, run)
    assert described(ours) == described(theirs)
    assert ours.get_feature_names_out() == list(lut["name"][1:])


def test_a_label_twice_in_the_table_does_not_shift_names(run):
    labels = np.zeros((6, 10, 10), np.int16)
    labels[1:3], labels[3:5] = 2, 9
    lut = pd.DataFrame({"index": [2, 2, 9], "name": ["two", "again", "nine"]})
    masker = NiftiLabelsMasker(nifti(labels, nibabel.load(run).affine), lut=lut, standardize=None)
    masker.fit_transform(run)
    assert masker.region_names_ == {0: "two", 1: "nine"}


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"strategy": "mode"}, UsageError, "'strategy' must be one of"),
        ({"resampling_target": "mask"}, UsageError, "'resampling_target' must be one of"),
        ({"labels": ("a",)}, TypeError, "'labels' must be a list"),
        ({"labels": [1]}, TypeError, "must be a string"),
        ({"labels": ["a"], "lut": "x.csv"}, UsageError, "Pass either labels or a lookup table"),
        ({"lut": pd.DataFrame({"id": [1]})}, ValueError, "no column 'index'"),
        ({"lut": "nowhere.csv"}, ValueError, "look-up table nowhere.csv cannot be read"),
        ({"labels_img": None}, TypeError, "NiftiLike"),
        ({"labels_img": nifti(np.zeros((6, 10, 10), np.int16))}, ValueError, "Image has no label"),
        ({"mask_img": nifti(np.ones((3, 3, 3))), "resampling_target": None}, ValueError, "Following field of view"),
    ],
)
def test_atlas_parameters_refused(run, regions, options, error, match):
    with pytest.raises(error, match=match):
        NiftiLabelsMasker(**{"labels_img": regions, **options}).fit(run)


def test_maps_from_files_one_by_one(run, regions, tmp_path):
    whole = nibabel.load(run)
    paths = [tmp_path / f"map_{i}.nii.gz" for i in range(7)]
    for i, path in enumerate(paths):
        nibabel.save(whole.slicer[..., i], path)
    masker = NiftiLabelsMasker(regions, standardize=None).fit()
    want = masker.transform(run)
    assert_allclose(masker.transform(paths), want[:7], rtol=1e-12)
    assert_allclose(masker.transform(paths[2]), want[2], rtol=1e-12)


# ------------------------------------------------------------------ both


@pytest.mark.parametrize("kind", PAIRS)
def test_signature_is_nilearns(kind):
    ours, theirs = (inspect.signature(one.__init__).parameters for one in (kind, PAIRS[kind]))
    assert {name: p.default for name, p in ours.items()} == {name: p.default for name, p in theirs.items()}
    assert list(ours) == list(theirs)
    for method in ("fit", "transform", "inverse_transform", "transform_single_imgs"):
        ours, theirs = (list(inspect.signature(getattr(one, method)).parameters) for one in (kind, PAIRS[kind]))
        assert ours == theirs


@pytest.mark.parametrize("kind", PAIRS)
def test_pickle_clone_and_tables(kind, run, brain, regions):
    masker = kind(brain if kind is NiftiMasker else regions, standardize="zscore_sample").fit()
    want = masker.transform(run)
    assert_array_equal(pickle.loads(pickle.dumps(masker)).transform(run), want)
    assert_array_equal(clone(masker).fit().transform(run), want)
    table = masker.set_output(transform="pandas").transform(run)
    assert isinstance(table, pd.DataFrame)
    assert list(table.columns) == list(masker.get_feature_names_out())
    assert_array_equal(table.to_numpy(), want)
    assert clone(masker).set_output(transform="pandas").fit_transform(run).equals(table)
    with pytest.warns(UserWarning, match="Standardization of 3D signal"):
        one = masker.transform(nibabel.load(run).slicer[..., 0])
    assert one.shape == (1, masker.n_elements_)


@pytest.mark.parametrize("kind", PAIRS)
def test_nothing_given_is_written_to(kind, run, brain, regions):
    image, other = nibabel.load(run), nibabel.load(brain if kind is NiftiMasker else regions)
    image, other = nifti(data(image).copy(), image.affine), nifti(data(other).copy(), other.affine)
    before = data(image).copy(), data(other).copy()
    masker = kind(other, standardize="zscore_sample", smoothing_fwhm=30, detrend=True).fit()
    masker.inverse_transform(masker.transform(image))
    assert_array_equal(data(image), before[0])
    assert_array_equal(data(other), before[1])


def test_no_report_is_an_honest_error(brain):
    assert not hasattr(NiftiMasker(), "generate_report")
    with pytest.raises(AttributeError, match="makes no report"):
        NiftiMasker(brain).fit().generate_report()


@pytest.mark.parametrize("name", ["NiftiMasker", "NiftiLabelsMasker", "RegionExtractor", "Parcellations"])
def test_without_scikit_learn_the_extra_is_named(name):
    hidden = "import sys; sys.modules['sklearn'] = sys.modules['sklearn.base'] = None"
    code = f"{hidden}; from gpuroi.nilearn import {name}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "pip install 'gpuroi[parcellate]'" in done.stderr
