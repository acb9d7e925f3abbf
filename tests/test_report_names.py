"""Names from files never become HTML: a page has one skeleton, whatever people, columns and regions are called."""

from __future__ import annotations

import contextlib
from html.parser import HTMLParser
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from roi_runs import make_run

import gpuroi
from gpuroi.workflows.clusters import clusters
from gpuroi.workflows.screen import screen

AFFINE = np.diag([4.0, 4.0, 4.0, 1.0])
HARMLESS = ("first", "second", "third")
HOSTILE = tuple(f"\"><xss onload=alert({k})>'&lt;{{{{7*7}}}}" for k in range(3))  # may be the name of a file, too
CLOSING = "</script></style></title></textarea><!doctype><xss>"


class Skeleton(HTMLParser):
    """Tags with the names of their attributes, and all text that is shown."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, ...]] = []
        self.shown: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, *sorted(name for name, _ in attrs)))
        self.shown += [value for _, value in attrs if value]

    def handle_data(self, data: str) -> None:
        self.shown.append(data)


def image(path: str, data: np.ndarray) -> str:
    with contextlib.suppress(FileNotFoundError):
        Path("plain.nii.gz").unlink()
    nib.save(nib.Nifti1Image(data, AFFINE), "plain.nii.gz")
    Path("plain.nii.gz").rename(path)
    return path


def blobs(shape=(14, 14, 12)) -> np.ndarray:
    data = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    data[2:6, 2:6, 2:6] += 8
    data[8:12, 8:12, 6:10] -= 8
    return data


def halves(shape=(14, 14, 12)) -> np.ndarray:
    labels = np.ones(shape, np.int16)
    labels[7:] = 2
    labels[:2] = 3
    return labels


def atlas_of(names: tuple[str, ...]) -> tuple[str, pd.DataFrame]:
    closing = CLOSING if names is HOSTILE else ""
    table = pd.DataFrame({"index": [1, 2, 3], "name": [name + closing for name in names]})
    return image("atlas.nii.gz", halves()), table


def roi_page(names):
    run, labels = make_run()
    called = {"face": names[0], "house": names[1], "rest": "rest"}
    found = gpuroi.roi(run, [called[label] for label in labels], f"{names[0]}-{names[1]}", device="cpu")
    return found.save("out", figures=False)


def regions_page(names):
    found = gpuroi.regions(image(f"{names[0]}.nii.gz", blobs()), threshold=4.0, device="cpu")
    return found.save("out", figures=False)


def clusters_page(names):
    atlas, table = atlas_of(names)
    found = clusters(image(f"{names[0]}.nii.gz", blobs()), threshold=4.0, atlas=atlas, atlas_names=table, device="cpu")
    return found.save("out", figures=False)


def parcels_page(names):
    values = pd.DataFrame({"index": [1, 2, 3], names[0]: [4.0, -5.0, 0.1]})
    found = gpuroi.threshold_parcels(
        values, image(f"{names[1]}.nii.gz", halves()), threshold=2.0, column=names[0], device="cpu"
    )
    return found.save("out", figures=False)


def parcellation_page(names):
    maps = np.random.default_rng(1).normal(size=(14, 14, 12, 12)).astype(np.float32)
    found = gpuroi.parcellate(image(f"{names[0]}.nii.gz", maps), n_parcels=8, device="cpu")
    return found.save("out", figures=False)


def screen_page(names):
    atlas, table = atlas_of(names)
    table.to_csv("names.tsv", sep="\t", index=False)
    random = np.random.default_rng(2)
    rows = []
    for k in range(12):
        data = random.normal(size=(14, 14, 12)).astype(np.float32)
        data[2:6, 2:6, 2:6] += 4 * (k % 2)
        path = image(f"{k}.nii.gz", data)
        rows.append(
            {"participant_id": f"{names[0]} {k}", names[1]: names[k % 2], names[2]: str(20 + k * k), "map": path}
        )
    rows[-1][names[2]] = "n/a"  # is left out, and named
    pd.DataFrame(rows).to_csv("participants.tsv", sep="\t", index=False)
    mask = image("mask.nii.gz", np.ones((14, 14, 12), np.uint8))
    found = screen(
        "participants.tsv",
        formula=f"map ~ `{names[1]}` + `{names[2]}`",
        contrasts=[f"`{names[2]}`"],
        mask=mask,
        n_permutations=20,
        atlas=atlas,
        atlas_names="names.tsv",
        device="cpu",
    )
    return found.save("out", figures=False)


PAGES = {
    "roi": roi_page,
    "regions": regions_page,
    "clusters": clusters_page,
    "threshold-parcels": parcels_page,
    "parcellate": parcellation_page,
    "screen": screen_page,
}


@pytest.mark.parametrize("kind", PAGES)
def test_names_change_the_text_of_a_page_and_nothing_else(kind, tmp_path, monkeypatch):
    pages = []
    for place, names in (("harmless", HARMLESS), ("hostile", HOSTILE)):
        (tmp_path / place).mkdir()
        monkeypatch.chdir(tmp_path / place)
        PAGES[kind](names)
        pages.append(Skeleton(Path("out/report.html").read_text(encoding="utf-8")))
    harmless, hostile = pages
    assert hostile.tags == harmless.tags
    assert any(HOSTILE[0] in text or HOSTILE[1] in text for text in hostile.shown)
    assert not any(tag == "xss" or "onload" in attributes for tag, *attributes in hostile.tags)
