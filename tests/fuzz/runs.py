"""What a run keeps and reads again: options as TOML, states of permutations."""

from __future__ import annotations

import hashlib
import io
import json
import tempfile
import tomllib
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from gpuroi.cli import config_file
from gpuroi.errors import GpuroiError
from gpuroi.inference.result import PermutationState
from gpuroi.workflows.state_files import StateFiles

from .judge import Case, Target, WrongAnswerError
from .mutate import WORDS, damaged_bytes

__all__ = ["TARGETS"]

_TOML = b"""formula = "map ~ group + age"
contrast = ["patient=group[T.patient]", 'age']
permutations = 5000
min-coverage = 0.9
tfce = true
[more]
blocks = ["family", "site"]
"""
_NAME = "patient"


def _config(random: Random, folder: Path) -> Case:
    path = folder / "c.toml"
    path.write_bytes(_damaged_toml(random))
    return Case(lambda: config_file._read(path), lambda answer: _as_tomllib(path, answer), path.name)


def _damaged_toml(random: Random) -> bytes:
    if random.random() < 0.05:
        n = random.choice((10, 500, 50_000))
        return random.choice((b"a = " + b"[" * n, b"a = " + b"{a=" * n, b"a." * n + b"b = 1", b"[" * n, b"[[a]]\n" * n))
    lines = _TOML.splitlines()
    for _ in range(random.choice((0, 1, 1, 2))):
        at = random.randrange(len(lines))
        word = random.choice(WORDS).encode("utf-8", "surrogateescape")
        lines[at] = random.choice(
            (word, b"x = " + word, b"x = [" + word, lines[at] + word, b'"' + word + b'" = 1', b"")
        )
    raw = b"\n".join(lines)
    return damaged_bytes(random, raw) if random.random() < 0.4 else raw


def _as_tomllib(path: Path, answer: Any) -> str:
    if isinstance(answer, GpuroiError):
        return "refused"
    if answer != tomllib.loads(path.read_bytes().decode("utf-8-sig")) and "nan" not in repr(answer):
        raise WrongAnswerError(f"{answer}")
    return "agrees"


@cache
def _state() -> tuple[str, bytes, PermutationState]:
    """Name and bytes of the file of a state."""
    state = PermutationState(64, np.arange(3), {"max_stat": np.linspace(0, 1, 64)}, "key")
    with tempfile.TemporaryDirectory() as folder:
        StateFiles(Path(folder)).write(_NAME, state)
        (file,) = Path(folder).iterdir()
        return file.name, file.read_bytes(), state


def _states(random: Random, folder: Path) -> Case:
    name, raw, state = _state()
    data = damaged_bytes(random, raw)
    if random.random() < 0.5:  # with a checksum that is right, as somebody else could make it
        payload = data.split(b"\n", 2)[-1]
        data = b"gpuroi state 1\n" + hashlib.sha256(payload).hexdigest().encode() + b"\n" + payload
    elif random.random() < 0.2:
        data = _with_objects()
    (folder / name).write_bytes(data)
    return Case(lambda: StateFiles(folder).read(_NAME), lambda answer: _as_written(data == raw, state, answer))


def _with_objects() -> bytes:
    """Return a state with an array of objects: a pickle, which nobody may load."""
    content = io.BytesIO()
    words = {"name": np.array(_NAME), "key": np.array("key"), "done": np.array(64), "counts": np.array([{}, print])}
    np.savez(content, **words)
    payload = content.getvalue()
    return b"gpuroi state 1\n" + hashlib.sha256(payload).hexdigest().encode() + b"\n" + payload


def _as_written(sound: bool, state: PermutationState, answer: Any) -> str:
    if answer is None:
        return "refused" if not sound else "unchecked"
    if not isinstance(answer.done, int) or answer.counts.dtype == object:
        raise WrongAnswerError(f"{json.dumps(repr(answer))}")
    return "agrees" if np.array_equal(answer.counts, state.counts) else "unchecked"


TARGETS = (Target("configs", _config, 4), Target("states", _states, 3))
