"""Packed stores: their lists and headers as JSON, their shards as bytes."""

from __future__ import annotations

import copy
import json
import shutil
import tempfile
from functools import cache
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any

import nibabel
import numpy as np

from gpuroi.cohort.packing import pack_maps
from gpuroi.cohort.store import attributes_checksum, open_store
from gpuroi.domains import VoxelGrid
from gpuroi.errors import GpuroiError

from .judge import Case, Target, WrongAnswerError
from .mutate import WORDS, damaged_bytes

__all__ = ["TARGETS"]

_SHAPE, _N = (5, 4, 6), 3
_VALUES = (
    None, True, False, 0, 1, -1, 3, 2**31, 2**63, 1.5, "", "a", [], [1], {}, {"a": 1}, [[1]], "float32", "<f8",
    "object", "|O", ">i2", "float16", "S4", "datetime64[s]", [None], [float("nan")], ["x"] * 3,
    ["x"] * 100, "\ud800", "../..",
)  # fmt: skip


@cache
def _sound() -> tuple[dict[str, bytes], np.ndarray[Any, Any]]:
    """The files of a store, by their names, and its matrix."""
    affine = np.diag([2.0, 2.0, 3.0, 1.0])
    data = np.random.default_rng(0).standard_normal((_N, *_SHAPE)).astype(np.float32)
    grid = VoxelGrid(np.random.default_rng(1).random(_SHAPE) < 0.8, affine)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        paths = [folder / f"sub-{k}.nii" for k in range(_N)]
        for path, one in zip(paths, data, strict=True):
            nibabel.save(nibabel.Nifti1Image(one, affine), path)
        store = pack_maps(SimpleNamespace(ids=["a", "b", "c"], maps=paths), grid, folder / "x.zarr")
        files = {str(p.relative_to(store.path)): p.read_bytes() for p in store.path.rglob("*") if p.is_file()}
        return files, store.rows(0, _N)


def _store(random: Random, folder: Path) -> Case:
    files, matrix = _sound()
    changed = dict(files)
    for _ in range(random.choice((1, 1, 2))):
        name = random.choice(list(changed))
        if name.endswith(".json") and random.random() < 0.7:
            changed[name] = _damaged_json(random, changed[name])
        elif random.random() < 0.1:
            del changed[name]
        else:
            changed[name] = damaged_bytes(random, changed[name])
    if "zarr.json" in changed and random.random() < 0.6:
        changed["zarr.json"] = _with_checksum(changed["zarr.json"])
    store = folder / "x.zarr"
    shutil.rmtree(store, ignore_errors=True)
    for name, content in changed.items():
        (store / name).parent.mkdir(parents=True, exist_ok=True)
        (store / name).write_bytes(content)

    def read() -> tuple[Any, np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        opened = open_store(store)
        return opened, opened.rows(0, opened.shape[0]), opened.columns(0, opened.shape[1])

    return Case(read, lambda answer: _compare(answer, matrix), "x.zarr", lambda answer: int(answer[1].nbytes))


def _compare(answer: Any, matrix: np.ndarray[Any, Any]) -> str:
    """What is read are the rows that were packed, however the list of people was forged."""
    if isinstance(answer, GpuroiError):
        return "refused"
    store, rows, columns = answer
    if not np.array_equal(rows, columns) or rows.shape != (len(store.ids), store.mask.n_elements):
        raise WrongAnswerError(f"rows {rows.shape} and columns {columns.shape} of {store}")
    if len(rows) > len(matrix) or not np.array_equal(rows, matrix[: len(rows)]):
        raise WrongAnswerError(f"values that were never packed: {rows.ravel()[:3]}")
    if not all(isinstance(one, str) for one in store.ids) or len({*store.ids}) < len(store.ids):
        raise WrongAnswerError(f"ids {store.ids}")
    if not np.isfinite(store.affine).all() or len(store.sources) != len(store.ids):
        raise WrongAnswerError(f"affine {store.affine.tolist()}, {len(store.sources)} sources of {len(store.ids)}")
    return "agrees"


def _damaged_json(random: Random, raw: bytes) -> bytes:
    """Change up to three values anywhere in a tree of JSON; not its text."""
    try:
        tree = json.loads(raw)
    except ValueError:
        return raw
    for _ in range(random.randint(1, 3)):
        node, key = _place(random, tree)
        match random.randrange(5):
            case 0 if isinstance(node, dict):
                del node[key]
            case 1 if isinstance(node, list):
                node.append(copy.deepcopy(node[key]))
            case 2:
                node[key] = random.choice(WORDS)
            case _:
                node[key] = copy.deepcopy(random.choice(_VALUES))
    return json.dumps(tree).encode()


def _place(random: Random, tree: Any) -> tuple[Any, Any]:
    """Return a container and one of its keys."""
    node, key = {"": tree}, ""
    while isinstance(node[key], dict | list) and node[key] and random.random() < 0.8:
        node = node[key]
        key = random.choice(list(node) if isinstance(node, dict) else range(len(node)))
    return (node, key) if key != "" else (tree if isinstance(tree, dict) else {"a": 0}, next(iter(tree), "a"))


def _with_checksum(raw: bytes) -> bytes:
    """Forge the checksum over what was changed."""
    try:
        header = json.loads(raw)
        header["attributes"]["checksum"] = attributes_checksum(header["attributes"])
        return json.dumps(header).encode()
    except (ValueError, TypeError, KeyError, AttributeError):
        return raw


TARGETS = (Target("stores", _store, 3),)
