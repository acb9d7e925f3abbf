"""What tests of the command line share: small images, and a CUDA device that is only told of."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest

from gpuroi.backends.probe import CudaFacts, describe


def write(path: str | Path, data: np.ndarray) -> None:
    nibabel.save(nibabel.Nifti1Image(data, np.diag([3.0, 3.0, 3.0, 1.0])), path)


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def write_run(n: int = 40) -> None:
    """A run with a block of face voxels and a block of house voxels, and its labels."""
    labels = np.array(["face", "house"] * (n // 2))
    data = noise(10, 10, 10, n) + 100
    data[2:5, 2:5, 2:5, labels == "face"] += 6
    data[6:9, 6:9, 6:9, labels == "house"] += 6
    write("bold.nii.gz", data)
    Path("labels.tsv").write_text("labels\n" + "\n".join(labels) + "\n")


def in_a_process(*words: object, **keywords: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error", "-m", "gpuroi", *(str(word) for word in words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, **keywords)


def fake_cuda(monkeypatch: pytest.MonkeyPatch, facts: CudaFacts) -> None:
    monkeypatch.setattr("gpuroi.backends.probe.probe", lambda: describe(facts))
