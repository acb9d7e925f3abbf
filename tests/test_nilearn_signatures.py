"""Every name of gpuroi.nilearn has nilearn's arguments: their names, order, kinds and defaults; estimators also what
nilearn's offer before and after they are fitted. What is missing or more is listed here, with the reason."""

from __future__ import annotations

import importlib
import inspect
import subprocess
import sys
from typing import Any

import nibabel
import numpy as np
import pytest
from nilearn_images import quietly
from scipy.ndimage import gaussian_filter

import gpuroi.nilearn

HOME = {
    "glm": ["cluster_level_inference", "fdr_threshold", "threshold_stats_img"],
    "glm.second_level": ["non_parametric_inference"],
    "image": ["load_img", "mean_img", "new_img_like", "smooth_img", "threshold_img"],
    "maskers": ["NiftiLabelsMasker", "NiftiMasker"],
    "masking": ["apply_mask", "compute_epi_mask", "intersect_masks", "unmask"],
    "mass_univariate": ["permuted_ols"],
    "regions": [
        "Parcellations",
        "RegionExtractor",
        "connected_label_regions",
        "connected_regions",
        "img_to_signals_labels",
        "signals_to_img_labels",
    ],
    "reporting": ["get_clusters_table"],
}
MODULE = {name: f"nilearn.{module}" for module, names in HOME.items() for name in names}
ESTIMATORS = sorted(name for name in MODULE if name[0].isupper())

OTHER_METHODS = {
    ("NiftiMasker", "fit_transform"): "nilearn's **fit_params go to a fit that takes none: a TypeError here and there",
}
_DERIVED = "of the decomposition that nilearn's class is derived from"
_NO_PICTURES = "no pictures of masks; the attribute says so when it is asked for"
WITHOUT = {
    "NiftiLabelsMasker": {"generate_report": _NO_PICTURES},
    "NiftiMasker": {"generate_report": _NO_PICTURES},
    "Parcellations": {
        "do_cca": _DERIVED,
        "maps_masker_": _DERIVED,
        "memory_": "nothing is cached",
        "n_components": _DERIVED,
    },
    "RegionExtractor": {"generate_report": _NO_PICTURES},
}


def theirs(name: str) -> Any:
    return getattr(importlib.import_module(MODULE[name]), name)


def arguments(function: Any) -> list[tuple[str, Any, Any]]:
    return [(p.name, p.kind, p.default) for p in inspect.signature(function).parameters.values()]


def public(thing: Any) -> set[str]:
    return {name for name in dir(thing) if not name.startswith("_")}


def test_no_name_is_left_out() -> None:
    assert sorted(MODULE) == sorted(gpuroi.nilearn.__all__)


@pytest.mark.parametrize("name", sorted(MODULE))
def test_arguments_are_nilearns(name: str) -> None:
    assert arguments(getattr(gpuroi.nilearn, name)) == arguments(theirs(name))


@pytest.mark.parametrize("name", ESTIMATORS)
def test_methods_are_nilearns(name: str) -> None:
    ours, others = getattr(gpuroi.nilearn, name), theirs(name)
    assert public(others) <= public(ours)
    differing = {
        method
        for method in public(others)
        if inspect.isfunction(getattr(others, method))
        and method not in WITHOUT[name]
        and (name, method) not in OTHER_METHODS
        and arguments(getattr(ours, method)) != arguments(getattr(others, method))
    }
    assert differing == set()


@pytest.mark.parametrize("name", ESTIMATORS)
def test_what_is_fitted_is_nilearns(name: str) -> None:
    run, options = _run(), _options(name)
    ours = quietly(getattr(gpuroi.nilearn, name)(**options).fit, run)
    other = quietly(theirs(name)(**options).fit, run)
    missing = {x for x in public(other) if x not in WITHOUT[name] and hasattr(other, x)} - public(ours)
    assert missing == set()
    for kind in (set, frozenset, int, np.ndarray, list, dict):
        names = {x for x in public(other) if x.endswith("_") and isinstance(getattr(other, x), kind)}
        assert {x for x in names if not isinstance(getattr(ours, x), kind)} == set()


@pytest.mark.parametrize("name", ["NiftiLabelsMasker", "NiftiMasker"])
def test_what_is_without_says_so(name: str) -> None:
    with pytest.raises(AttributeError, match="makes no report"):
        getattr(gpuroi.nilearn, name)().generate_report()


def test_all_runs_without_nilearn() -> None:
    code = f"""
import sys
sys.modules["nilearn"] = None  # importing it is an error
import nibabel, numpy as np
from gpuroi import nilearn as ours
for name in ours.__all__:
    getattr(ours, name)
rng = np.random.default_rng(0)
run = nibabel.Nifti1Image((100 + rng.standard_normal({SHAPE} + (12,))).astype("f4"), np.eye(4))
one = nibabel.Nifti1Image(rng.standard_normal({SHAPE}).astype("f4"), np.eye(4))
ids = np.zeros({SHAPE}, np.int16)
ids[:4], ids[6:] = 400, 7
atlas, mask = nibabel.Nifti1Image(ids, np.eye(4)), nibabel.Nifti1Image((ids > 0).astype("u1"), np.eye(4))
ours.threshold_img(ours.smooth_img(ours.load_img(one), 2.0), 0.1, cluster_threshold=3)
ours.connected_regions(one, 1, extract_type="connected_components")
ours.connected_label_regions(atlas)
signals, _, _ = ours.img_to_signals_labels(run, atlas)
ours.signals_to_img_labels(signals, atlas)
ours.unmask(ours.apply_mask(run, mask), mask)
ours.intersect_masks([mask, mask])
ours.compute_epi_mask(nibabel.Nifti1Image(ids * 3.0 + 1, np.eye(4)), opening=0)
ours.get_clusters_table(one, 1.0)
ours.threshold_stats_img(one, alpha=0.1, height_control="fpr", cluster_threshold=2, two_sided=False)
ours.cluster_level_inference(one, mask, threshold=2.0)
ours.NiftiMasker(mask, standardize=None, detrend=True).fit().transform(run)
ours.NiftiLabelsMasker(atlas, standardize=None).fit().transform(run)
try:
    ours.get_clusters_table(run, 1.0)
except TypeError as error:
    assert "incompatible dimensionality" in str(error), error
else:
    raise AssertionError("four axes were taken for three")
"""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


SHAPE = (10, 9, 8)


def _run() -> nibabel.Nifti1Image:
    noise = np.random.default_rng(0).standard_normal((*SHAPE, 15))
    values = 100 * gaussian_filter(noise, (1.5, 1.5, 1.5, 0)) + 100
    return nibabel.Nifti1Image(values.astype(np.float32), np.diag([3, 3, 3, 1]))


def _options(name: str) -> dict[str, Any]:
    run = _run()
    ids = np.zeros(SHAPE, np.int16)
    ids[:4], ids[6:] = 3, 7
    if name == "NiftiLabelsMasker":
        return {"labels_img": nibabel.Nifti1Image(ids, run.affine)}
    if name == "NiftiMasker":
        return {"mask_img": nibabel.Nifti1Image(np.ones(SHAPE, np.uint8), run.affine)}
    if name == "Parcellations":
        return {"method": "ward", "n_parcels": 5, "mask": nibabel.Nifti1Image(np.ones(SHAPE, np.uint8), run.affine)}
    maps = np.stack([gaussian_filter((ids == k).astype(np.float32), 1) for k in (3, 7)], axis=-1)
    return {"maps_img": nibabel.Nifti1Image(maps, run.affine), "threshold": 0.5, "min_region_size": 10}
