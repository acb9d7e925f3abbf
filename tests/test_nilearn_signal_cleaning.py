"""Cleaning of signals: equal to nilearn's over its options, to SciPy's filters, and right where nilearn is not."""

from __future__ import annotations

import inspect
import warnings

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from scipy import signal
from scipy.interpolate import CubicSpline

from gpuroi.errors import DataError, UsageError
from gpuroi.nilearn.signal_cleaning import clean, high_variance_confounds

N, T_R = 60, 2.0


def walks(v=7, n=N, seed=0, mean=1000.0):
    return np.random.default_rng(seed).standard_normal((n, v)).cumsum(axis=0) + mean


def nilearns(*args, **kwargs):
    from nilearn.signal import clean as nilearn_clean

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return nilearn_clean(*args, **kwargs)


def same(got, want, tolerance=1e-9):
    assert got.shape == want.shape
    assert got.dtype == want.dtype
    assert_allclose(got, want, rtol=0, atol=tolerance * max(1.0, np.abs(want).max()))


FILTERS = st.sampled_from(
    [
        {"filter": "butterworth"},
        {"filter": "butterworth", "low_pass": 0.1},
        {"filter": "butterworth", "high_pass": 0.01},
        {"filter": "butterworth", "low_pass": 0.1, "high_pass": 0.01},
        {"filter": "butterworth", "low_pass": 0.1, "butterworth__order": 3, "butterworth__padtype": "even"},
        {"filter": "cosine", "high_pass": 0.02},
        {"filter": False},
    ]
)


@given(
    options=FILTERS,
    detrend=st.booleans(),
    standardize=st.sampled_from(["zscore_sample", "psc", None]),
    standardize_confounds=st.booleans(),
    n_confounds=st.integers(0, 4),
    censored=st.sets(st.integers(0, N // 2 - 1), max_size=5),  # none with its mirror: see below
    as_bool=st.booleans(),
    extrapolate=st.booleans(),
    v=st.sampled_from([3, 90]),  # fewer and more than volumes: the filter as recursion and as matrix
    seed=st.integers(0, 9),
)
def test_equal_to_nilearn(
    options, detrend, standardize, standardize_confounds, n_confounds, censored, as_bool, extrapolate, v, seed
):
    keep = np.ones(N, bool)
    keep[list(censored)] = False
    arguments = {
        "detrend": detrend,
        "standardize": standardize,
        "standardize_confounds": standardize_confounds,
        "confounds": walks(n_confounds, seed=seed + 100, mean=3) if n_confounds else None,
        "sample_mask": (keep if as_bool else np.flatnonzero(keep)) if censored else None,
        "extrapolate": extrapolate,
        "t_r": T_R,
        **options,
    }
    signals = walks(v, seed=seed)
    before = signals.copy()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "When confounds are provided|Cosine filter")
        got = clean(signals, **arguments)
    assert_array_equal(signals, before)
    same(got, nilearns(signals, **arguments), 1e-8)


@pytest.mark.parametrize("dtype", [np.float32, np.int16, np.int64, ">f4"])
@pytest.mark.parametrize("standardize", ["zscore_sample", "psc", None])
def test_other_types(dtype, standardize):
    signals = walks().astype(dtype)
    got = clean(signals, standardize=standardize, high_pass=0.01, t_r=T_R)
    want = nilearns(signals.astype(signals.dtype.newbyteorder("=")), standardize=standardize, high_pass=0.01, t_r=T_R)
    same(got, want, 1e-4 if got.dtype == np.float32 else 1e-9)


@pytest.mark.parametrize("v", [3, 200])
def test_devices_agree(device, v):
    keep = np.setdiff1d(np.arange(N), [0, 7, 30])
    arguments = {"confounds": walks(2, seed=5), "sample_mask": keep, "low_pass": 0.1, "high_pass": 0.01, "t_r": T_R}
    for standardize in ("zscore_sample", "psc"):
        same(
            clean(walks(v), standardize=standardize, **arguments),
            nilearns(walks(v), standardize=standardize, **arguments),
        )
    series = walks(300, mean=0)
    ours = high_variance_confounds(series)
    from nilearn.signal import high_variance_confounds as theirs

    assert_allclose(np.abs(ours.T @ theirs(series)), np.eye(5), atol=1e-9)


@pytest.mark.parametrize(("low", "high", "kind"), [(0.1, None, "low"), (None, 0.02, "high"), (0.1, 0.02, "band")])
@pytest.mark.parametrize("v", [2, 80])
def test_filter_is_scipys(low, high, kind, v):
    cut = [f for f in (high, low) if f is not None]
    sections = signal.butter(5, cut if len(cut) > 1 else cut[0], kind, output="sos", fs=1 / T_R)
    want = signal.sosfiltfilt(sections, walks(v), axis=0)
    same(clean(walks(v), detrend=False, standardize=None, low_pass=low, high_pass=high, t_r=T_R), want, 1e-10)


def test_detrend_is_scipys():
    same(clean(walks(), standardize=None), signal.detrend(walks(), axis=0), 1e-12)
    want = signal.detrend(walks(), axis=0)
    same(clean(walks()), want / want.std(axis=0, ddof=1), 1e-12)


def test_confounds_leave_least_squares_residuals():
    signals, confounds = walks(), walks(3, seed=1)
    centred = confounds - confounds.mean(axis=0)
    want = signals - centred @ np.linalg.lstsq(centred, signals, rcond=None)[0]
    same(clean(signals, detrend=False, standardize=None, confounds=confounds), want, 1e-10)


def test_rank_deficient_confounds_count_once():
    confounds = walks(2, seed=1)
    twice = np.hstack([confounds, confounds @ [[1, 2], [3, 4]], np.ones((N, 1))])
    same(clean(walks(), confounds=twice), clean(walks(), confounds=confounds), 1e-8)


@pytest.mark.parametrize("scrubbed", [[10], [10, N - 11], [0, N - 1], [0, 1, 2, 30, N - 1]])
@pytest.mark.parametrize("extrapolate", [False, True])
def test_what_is_scrubbed_does_not_matter(scrubbed, extrapolate):
    """nilearn lets artefacts through where a volume and its mirror image in time are both left out."""
    keep = np.setdiff1d(np.arange(N), scrubbed)
    arguments = {"sample_mask": keep, "low_pass": 0.1, "high_pass": 0.01, "t_r": T_R, "extrapolate": extrapolate}
    spoilt = walks()
    spoilt[scrubbed] += 1e4
    same(clean(spoilt, **arguments), clean(walks(), **arguments), 1e-12)
    assert_array_equal(keep, np.setdiff1d(np.arange(N), scrubbed))
    filled = walks()
    within = [i for i in scrubbed if extrapolate or keep[0] < i < keep[-1]]
    filled[within] = CubicSpline(keep, walks()[keep])(within)
    span = np.arange(N) if extrapolate else np.arange(keep[0], keep[-1] + 1)
    sections = signal.butter(5, [0.01, 0.1], "band", output="sos", fs=1 / T_R)
    want = signal.sosfiltfilt(sections, signal.detrend(filled[span], axis=0), axis=0)[np.isin(span, keep)]
    same(clean(walks(), standardize=None, **arguments), want, 1e-9)


def test_a_mask_of_int32_is_not_changed():
    keep = np.arange(3, N, dtype=np.int32)
    clean(walks(), sample_mask=keep, low_pass=0.1, t_r=T_R)
    assert_array_equal(keep, np.arange(3, N))


@pytest.mark.parametrize("names", [(0, 1), (3, 8), ("a", "b")])
def test_runs_are_cleaned_apart(names):
    runs, confounds = np.repeat(names, N // 2), walks(2, seed=4)
    masks = [np.arange(2, 30), np.arange(0, 25)]
    arguments = {"low_pass": 0.1, "t_r": T_R, "standardize_confounds": False}
    got = clean(walks(), runs=runs, confounds=confounds, sample_mask=masks, **arguments)
    halves = [slice(0, 30), slice(30, 60)]
    want = [
        clean(walks()[h], confounds=confounds[h], sample_mask=m, **arguments)
        for h, m in zip(halves, masks, strict=True)
    ]
    assert_array_equal(got, np.vstack(want))
    same(clean(walks(), runs=np.repeat([0, 1], 30)), nilearns(walks(), runs=np.repeat([0, 1], 30)))


@given(scale=st.sampled_from([1e-3, 1.0, 1e4]), shift=st.sampled_from([0.0, 1e4, 1e6]))
def test_scale_and_shift_leave_z_scores(scale, shift):
    arguments = {"confounds": walks(2, seed=3), "high_pass": 0.01, "t_r": T_R}
    same(clean(walks() * scale + shift, **arguments), clean(walks(), **arguments), 1e-5)


def test_columns_do_not_know_each_other():
    signals = walks(150)
    arguments = {"confounds": walks(2, seed=3), "low_pass": 0.1, "t_r": T_R}
    whole = clean(signals, **arguments)
    signals[4, 20] = np.nan
    got = clean(signals, **arguments)
    assert np.isnan(got[:, 20]).all()
    assert_array_equal(np.delete(got, 20, axis=1), np.delete(whole, 20, axis=1))


def test_chunks_do_not_matter(monkeypatch):
    from gpuroi.nilearn import signal_cleaning

    whole = [clean(walks(100), standardize=how, low_pass=0.1, t_r=T_R) for how in ("psc", "zscore_sample")]
    monkeypatch.setattr(signal_cleaning, "_CHUNK_BYTES", 8 * N * 7)
    for how, want in zip(("psc", "zscore_sample"), whole, strict=True):
        same(clean(walks(100), standardize=how, low_pass=0.1, t_r=T_R), want, 1e-12)
    assert high_variance_confounds(walks(100)).shape == (N, 5)


@pytest.mark.parametrize("value", [0.0, 1e4 / 3, 1e6])
def test_what_does_not_vary_is_zero(value):
    signals = walks(3)
    signals[:, 1] = value
    assert (clean(signals)[:, 1] == 0).all()
    assert (clean(signals, detrend=False)[:, 1] == 0).all()


def test_ensure_finite():
    signals = walks()
    signals[3, 2], signals[5, 1] = np.nan, np.inf
    same(clean(signals, ensure_finite=True), clean(np.nan_to_num(signals, posinf=0)))
    assert np.isnan(signals[3, 2])
    with pytest.raises(DataError, match="only finite values"):
        clean(signals, sample_mask=np.arange(5, 50), low_pass=0.1, t_r=T_R)


# ------------------------------------------------------------------ confounds and sample masks


@pytest.mark.parametrize("separator", ["\t", ",", ";", " "])
@pytest.mark.parametrize("header", [True, False])
@pytest.mark.parametrize("n_columns", [1, 3])
def test_confounds_from_files(tmp_path, separator, header, n_columns):
    table = pd.DataFrame(walks(n_columns, seed=9), columns=[f"rot_{i}" for i in range(n_columns)])
    path = tmp_path / "confounds.tsv"
    table.to_csv(path, sep=separator, index=False, header=header)
    want = clean(walks(), confounds=table.to_numpy())
    for given_as in (
        path,
        str(path),
        table,
        [table.iloc[:, :1], *([table.to_numpy()[:, 1:]] if n_columns > 1 else [])],
    ):
        same(clean(walks(), confounds=given_as), want, 1e-10)
    assert_array_equal(clean(walks(), confounds=table.to_numpy()[:, 0]), clean(walks(), confounds=table.iloc[:, :1]))


def test_a_missing_value_is_named(tmp_path):
    table = pd.DataFrame({"csf": walks(1)[:, 0], "csf_derivative1": [np.nan, *range(N - 1)]})
    table.to_csv(tmp_path / "c.tsv", sep="\t", index=False, na_rep="n/a")
    with pytest.raises(ValueError, match="'csf_derivative1' has one in row 0"):
        clean(walks(), confounds=table)
    with pytest.raises(ValueError, match=r"c\.tsv: array must not contain infs or NaNs"):
        clean(walks(), confounds=tmp_path / "c.tsv")


@pytest.mark.parametrize(
    ("confounds", "error", "match"),
    [
        (np.ones((N + 1, 2)), ValueError, "incorrect length"),
        (np.ones((N, 2, 2)), ValueError, "incorrect number of dimensions"),
        ({"a": 1}, TypeError, "unhandled type"),
        (["nowhere.csv"], FileNotFoundError, "nowhere.csv"),
        ([], ValueError, "empty list"),
    ],
)
def test_confounds_refused(confounds, error, match):
    with pytest.raises(error, match=match):
        clean(walks(), confounds=confounds)


@pytest.mark.parametrize(("text", "match"), [("", "is empty"), ("1 2\n3\n", "different numbers of columns")])
def test_broken_tables(tmp_path, text, match):
    (tmp_path / "c.txt").write_text(text)
    with pytest.raises(DataError, match=match):
        clean(walks(n=2), confounds=tmp_path / "c.txt")


@pytest.mark.parametrize(
    ("mask", "error", "match"),
    [
        (np.arange(N + 1), IndexError, "more timepoints"),
        (np.ones(N + 1, bool), IndexError, "longer than its run"),
        (np.array([0, N]), IndexError, "invalid index"),
        (np.array([-1, 2]), ValueError, "negative values"),
        ([np.arange(3), np.arange(3)], ValueError, "not matching number of runs"),
        ("all", TypeError, "sample_masks"),
    ],
)
def test_sample_masks_refused(mask, error, match):
    with pytest.raises(error, match=match):
        clean(walks(), sample_mask=mask)


def test_nothing_left():
    from nilearn.exceptions import AllVolumesRemovedError

    with pytest.raises(AllVolumesRemovedError, match="All volumes were marked as motion outliers"):
        clean(walks(), sample_mask=np.zeros(N, bool))


def test_unordered_mask_cannot_be_interpolated():
    with pytest.raises(DataError, match="ascending"):
        clean(walks(), sample_mask=np.array([5, 3, 9]), low_pass=0.1, t_r=T_R)
    assert_array_equal(
        clean(walks(), sample_mask=np.array([5, 3, 9]), detrend=False, standardize=None), walks()[[5, 3, 9]]
    )


# ------------------------------------------------------------------ arguments


def test_signature_is_nilearns():
    from nilearn.signal import clean as theirs

    assert list(inspect.signature(clean).parameters) == list(inspect.signature(theirs).parameters)
    defaults = {name: p.default for name, p in inspect.signature(clean).parameters.items()}
    assert defaults == {name: p.default for name, p in inspect.signature(theirs).parameters.items()}


@pytest.mark.parametrize(
    ("arguments", "error", "match"),
    [
        ({"low_pass": 0.01, "high_pass": 0.1}, UsageError, "greater than or equal to low pass"),
        ({"low_pass": 0.1, "t_r": None}, UsageError, "must be specified for butterworth"),
        ({"filter": "cosine"}, UsageError, "must be specified for cosine"),
        ({"filter": "fir"}, UsageError, "fir not implemented"),
        ({"standardize": "zscore"}, UsageError, "'standardize' must be one of"),
        ({"detrend": 1}, TypeError, "'detrend' must be of type"),
        ({"t_r": "2"}, TypeError, "'t_r' must be of type"),
        ({"ensure_finite": "yes"}, UsageError, "ensure_finite"),
        ({"runs": np.zeros(3)}, DataError, "length of the run vector"),
        ({"low_pass": 0.1, "butterworth__padlen": 1000}, ValueError, "padlen"),
        ({"low_pass": 0.1, "butterworth__zeros": 1}, TypeError, "unexpected keyword argument 'zeros'"),
    ],
)
def test_arguments_refused(arguments, error, match):
    with pytest.raises(error, match=match):
        clean(walks(), **arguments)
    with pytest.raises(DataError, match="expected"):
        clean(np.ones(5))


@pytest.mark.parametrize(
    ("signals", "arguments", "category", "match"),
    [
        (walks(), {"standardize": True}, FutureWarning, "boolean values for 'standardize'"),
        (walks(), {"low_pass": 0.5, "t_r": 2.0}, UserWarning, "too high to be handled"),
        (walks(), {"high_pass": -0.1}, UserWarning, "too low to be handled"),
        (walks(), {"low_pass": 3.0, "high_pass": 2.0}, UserWarning, "frequencies are equal|too high"),
        (walks(), {"filter": False, "low_pass": 0.1}, UserWarning, "No filter type selected"),
        (walks(), {"filter": "cosine", "high_pass": 0.01, "low_pass": 0.1}, UserWarning, "low_pass is not implemented"),
        (walks(), {"filter": "cosine", "high_pass": 1e-6}, UserWarning, "Cosine filter was not created"),
        (walks(), {"confounds": walks(1), "detrend": False, "standardize_confounds": False}, UserWarning, "one must"),
        (walks(n=1), {}, UserWarning, "of 3D signal has been requested"),
        (walks(mean=0) * 0, {"standardize": "psc"}, UserWarning, "psc standardization strategy is meaningless"),
    ],
)
def test_warnings_are_nilearns(signals, arguments, category, match):
    with pytest.warns(category, match=match) as record:
        got = clean(signals, **arguments)
    assert record[0].filename == __file__
    assert_allclose(got, nilearns(signals, **arguments), atol=1e-8)


def test_cosines_given_are_not_added_again():
    cosines = np.cos(np.pi / N * (np.arange(N) + 0.5))[:, None]
    with pytest.warns(UserWarning, match="exist in user supplied confounds"):
        got = clean(walks(), confounds=cosines, filter="cosine", high_pass=0.02, t_r=T_R)
    same(got, nilearns(walks(), confounds=cosines, filter="cosine", high_pass=0.02, t_r=T_R))


def test_high_variance_confounds_pass_nan_over():
    from nilearn.signal import high_variance_confounds as theirs

    series = walks(200, mean=0)
    series[4, :10] = np.nan
    for detrend in (True, False):
        ours = high_variance_confounds(series, n_confounds=3, percentile=10, detrend=detrend)
        want = theirs(series, n_confounds=3, percentile=10, detrend=detrend)
        assert_allclose(np.abs(ours.T @ want), np.eye(3), atol=1e-8)
