"""The maskers by scikit-learn's rules of estimators, and by nilearn's."""

from __future__ import annotations

import warnings

import nibabel
import nilearn.maskers
import numpy as np
import pytest
from sklearn.utils.estimator_checks import check_estimator

from gpuroi.nilearn import NiftiLabelsMasker, NiftiMasker

PAIRS = {NiftiMasker: nilearn.maskers.NiftiMasker, NiftiLabelsMasker: nilearn.maskers.NiftiLabelsMasker}
ELSEWHERE = {  # nilearn's check -> why it says nothing of ours
    "check_doc_link": "our pages are not nilearn's",
    "check_masker_generate_report": "no reports",
    "check_masker_generate_report_constant": "no reports",
    "check_masker_generate_report_false": "no reports",
    "check_nifti_masker_generate_report_after_fit_with_only_mask": "no reports",
    "check_masker_joblib_cache": "asks that nilearn's cache is filled inside the mask image",
    "check_masker_shelving": "nothing is cached",
}


def quietly(function, *args, **kwargs):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return function(*args, **kwargs)


@pytest.fixture
def estimator_checks(pytestconfig, monkeypatch):
    """nilearn's checks of estimators, ours in place of its maskers."""
    for marker in ("ai_generated", "flaky", "single_process", "slow", "thread_unsafe"):
        pytestconfig.addinivalue_line("markers", f"{marker}: of nilearn's tests, which its checks import")
    from nilearn._utils import estimator_checks

    for kind, theirs in PAIRS.items():
        monkeypatch.setattr(estimator_checks, theirs.__name__, kind)
    return estimator_checks


@pytest.mark.parametrize("kind", PAIRS)
def test_nilearns_rules_of_estimators(kind, estimator_checks):
    labels = np.zeros((7, 8, 9), np.int32)  # the shape of the images that the checks make
    labels[1:4, 1:4, 1:4], labels[4:6, 4:6, 4:6] = 1, 2
    masker = (
        kind(standardize=None)
        if kind is NiftiMasker
        else kind(nibabel.Nifti1Image(labels, np.eye(4)), standardize=None)
    )
    failed = {}
    checks = estimator_checks.nilearn_check_estimator([masker])
    for estimator, check, name in checks:
        try:
            quietly(check, estimator)
        except Exception as error:
            failed[name] = error
    assert len(checks) > 40
    assert set(failed) <= set(ELSEWHERE), failed


@pytest.mark.parametrize("kind", PAIRS)
def test_scikit_learns_rules_of_estimators(kind, estimator_checks):
    estimator = kind()
    known = estimator_checks.return_expected_failed_checks(estimator)
    results = quietly(check_estimator, estimator, expected_failed_checks=known, on_fail=None)
    assert len(results) > 30
    assert [r["check_name"] for r in results if r["status"] == "failed"] == []
