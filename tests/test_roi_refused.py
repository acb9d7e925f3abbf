"""What `gpuroi.roi` refuses: one error that names the file or argument, what was found and what was expected."""

from __future__ import annotations

import gzip

import nibabel
import numpy as np
import pytest
from roi_runs import OBLIQUE, STRAIGHT, make_run

from gpuroi.errors import DataError, DeviceError, GridError, UsageError
from gpuroi.workflows.roi import roi


@pytest.fixture
def given(tmp_path):
    run, names = make_run(n_blocks=1)
    nibabel.save(run, tmp_path / "bold.nii.gz")
    (tmp_path / "labels.txt").write_text("labels chunks\n" + "".join(f"{name} 0\n" for name in names))
    return {"bold": tmp_path / "bold.nii.gz", "conditions": tmp_path / "labels.txt", "contrast": "face-house"}


def refused(given, said, error=DataError, **changes):
    with pytest.raises(error) as caught:
        roi(**{**given, "device": "cpu", **changes})
    for part in [said] if isinstance(said, str) else said:
        assert part in str(caught.value)
    return caught.value


def test_a_truncated_image(given):
    content = given["bold"].read_bytes()
    given["bold"].write_bytes(content[: len(content) // 2])
    refused(given, "bold.nii.gz")


def test_a_truncated_image_with_a_length_that_fits(given):
    # Cut in the middle, but with the trailer of the whole: only inflating it tells.
    content = given["bold"].read_bytes()
    given["bold"].write_bytes(content[: len(content) // 2] + content[-8:])
    refused(given, "bold.nii.gz")


@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "packed"])
def test_text_in_place_of_an_image(given, pack):
    given["bold"].write_bytes(pack(b"these are my results, " * 40))
    refused(given, ["bold.nii.gz", "these are my results"] if pack is gzip.compress else "bold.nii.gz")


def test_labels_for_another_number_of_volumes(given):
    given["conditions"].write_text("labels chunks\nface 0\nhouse 0\n")
    refused(given, [str(given["conditions"]), "2 labels", "15 volumes", "bold.nii.gz"])


def test_a_condition_that_does_not_occur(given):
    refused(
        given, ['"hose" does not occur', "face (5 volumes), house (5 volumes), rest (5 volumes)"], contrast="face-hose"
    )


def test_a_condition_with_one_volume(given):
    names = ["face"] + ["house"] * 14
    given["conditions"].write_text("labels\n" + "\n".join(names))
    refused(given, ['"face" has 1 volume', "labels.txt", "2 or more"])


def test_events_beyond_the_end_of_the_run(given):
    given["conditions"].write_text("onset\tduration\ttrial_type\n0\t10\tface\n900\t10\thouse\n")
    refused(given, '"house" does not occur')


def test_a_mask_on_another_grid(given, tmp_path):
    nibabel.save(nibabel.Nifti1Image(np.ones((14, 12, 9), "u1"), np.diag([2.0, 2.0, 2.0, 1.0])), tmp_path / "mask.nii")
    refused(given, ["mask.nii", "bold.nii.gz", "2 mm"], GridError, mask=tmp_path / "mask.nii")


def test_an_empty_mask(given, tmp_path):
    nibabel.save(nibabel.Nifti1Image(np.zeros((14, 12, 9), "u1"), STRAIGHT), tmp_path / "mask.nii")
    refused(given, "mask.nii", mask=tmp_path / "mask.nii")


def test_runs_on_different_grids(given, tmp_path):
    other, names = make_run(n_blocks=1, affine=OBLIQUE)
    nibabel.save(other, tmp_path / "run2.nii.gz")
    refused(
        given,
        ["run2.nii.gz", "bold.nii.gz"],
        GridError,
        bold=[given["bold"], tmp_path / "run2.nii.gz"],
        conditions=[given["conditions"], names],
    )


def test_a_run_of_nothing_but_missing_values(given, tmp_path):
    run, names = make_run(n_blocks=1, dtype=np.float32)
    empty = nibabel.Nifti1Image(np.full(run.shape, np.nan, np.float32), run.affine)
    nibabel.save(empty, tmp_path / "empty.nii")
    for fwhm in (6.0, None):
        refused(
            given,
            ["empty.nii", "all values are NaN"],
            bold=[given["bold"], tmp_path / "empty.nii"],
            conditions=[given["conditions"], names],
            fwhm=fwhm,
        )


def test_runs_without_their_own_labels(given):
    refused(given, ["2 runs", "conditions for 1"], bold=[given["bold"]] * 2)
    refused(given, ["1 run", "conditions for 2"], conditions=[given["conditions"]] * 2)


def test_volumes_and_runs_in_one_list(given, tmp_path):
    nibabel.save(nibabel.Nifti1Image(np.ones((14, 12, 9), np.float32), STRAIGHT), tmp_path / "one.nii")
    refused(given, ["one.nii", "one volume"], bold=[given["bold"], tmp_path / "one.nii"])


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("threshold", -1), ("threshold", np.nan), ("threshold", "p<0.01"), ("fwhm", "wide"), ("dilate", "2"),
        ("fwhm", -6), ("fwhm", (6, 6)), ("fwhm", np.inf), ("dilate", -1),
        ("dilate", 1.5), ("min_region_size", -5), ("min_region_size", np.nan), ("connectivity", 8), ("tr", 0),
        ("memory_limit", "plenty"), ("memory_limit", "90kB"), ("device", "tpu"), ("contrast", "face"),
    ],
)  # fmt: skip
def test_arguments_outside_their_range(given, argument, value):
    refused(
        given,
        str(value) if value in ("plenty", "tpu") else argument,
        UsageError,
        **{argument: value},
    )


def test_a_device_that_is_not_there(given):
    refused(given, "cuda:77", DeviceError, device="cuda:77")
