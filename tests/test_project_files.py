"""What the files at the root, and those of the containers, say of the project is so."""

from __future__ import annotations

import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml

import gpuroi

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
IMAGES = ("cpu", "cuda")


def text(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def test_paths_of_the_contributing_page_exist():
    named = {path for path in re.findall(r"`([\w/.*-]+)`", text("CONTRIBUTING.md")) if "/" in path}
    assert len(named) >= 15
    there = {path: list(ROOT.glob(path.replace("OP", "label"))) for path in named}
    assert [path for path, found in there.items() if not found] == []


def test_layers_of_the_contributing_page_are_those_that_are_checked():
    layers = next(c["layers"] for c in PROJECT["tool"]["importlinter"]["contracts"] if c["type"] == "layers")
    checked = [part.strip().removeprefix("gpuroi.") for layer in layers for part in layer.split("|")]
    bullet = text("CONTRIBUTING.md").partition("**Layers.**")[2].partition("Arrays never")[0]
    said = [name for name in re.findall(r"`(\w+)`", bullet) if name in checked]
    assert said == [name for name in checked if name in said]
    assert set(checked) - set(said) <= {"distributed"}  # an extra, beside the report


def test_bullets_of_the_contributing_page_are_a_dozen():
    assert text("CONTRIBUTING.md").count("\n- ") == 12
    makefile = text("Makefile")
    targets = re.findall(r"`make ([a-z-]+)", text("CONTRIBUTING.md"))
    assert all(re.search(rf"^{target}:", makefile, re.MULTILINE) for target in targets)


def test_citation_is_valid_and_current():
    cited = yaml.safe_load(text("CITATION.cff"))
    assert {"cff-version", "message", "title", "authors"} <= set(cited)  # what the schema 1.2.0 requires
    known = {"abstract", "type", "version", "license", "repository-code", "keywords", "doi", "date-released", "url"}
    assert set(cited) <= known | {"cff-version", "message", "title", "authors"}
    assert (cited["cff-version"], cited["type"], cited["license"]) == ("1.2.0", "software", "BSD-3-Clause")
    assert cited["version"] == gpuroi.__version__
    assert all(
        set(author) <= {"name", "given-names", "family-names", "orcid", "affiliation"} for author in cited["authors"]
    )


def test_formulas_know_the_transforms_that_the_security_page_counts():
    from gpuroi.cohort import TRANSFORMS

    assert len(TRANSFORMS) == 6
    assert "six transforms" in text("SECURITY.md")


def test_no_pickle_is_loaded_outside_dask():
    """The promise of the security page: pickles are Dask's alone, NumPy loads none, nothing is evaluated."""
    for path in sorted((ROOT / "gpuroi").rglob("*.py")):
        code = path.read_text(encoding="utf-8")
        if path.parent.name != "distributed":
            assert not re.search(r"^\s*(import|from) (cloud)?pickle", code, re.MULTILINE), path
        assert not re.search(r"allow_pickle=True|(?<![\w.])eval\(|(?<![\w.])exec\(", code), path


@pytest.mark.parametrize("kind", IMAGES)
def test_images_keep_their_promises(kind):
    """Two stages, no root, no fixed user, caches where anybody may write, a tag for the results."""
    file = text(f"docker/Dockerfile.{kind}")
    assert len(re.findall(r"^FROM \$\{BASE_IMAGE\}", file, re.MULTILINE)) == 2
    assert re.search(r"^USER 10001:10001$", file, re.MULTILINE)
    assert 'ENTRYPOINT ["/usr/bin/tini", "-s", "--", "gpuroi"]' in file
    assert "COPY --from=build /opt/gpuroi /opt/gpuroi" in file
    settings = dict(re.findall(r"^(?:ENV|   ) +(\w+)=\"?([^\s\"\\]+)", file, re.MULTILINE))
    caches = {"MPLCONFIGDIR", "NUMBA_CACHE_DIR", "HOME", *(["CUPY_CACHE_DIR"] if kind == "cuda" else [])}
    assert {name: settings[name].startswith("/tmp") for name in caches} == dict.fromkeys(caches, True)
    assert settings["GPUROI_CONTAINER"].startswith("gpuroi:${VERSION}-")
    assert f"ARG VERSION={gpuroi.__version__}" in file
    assert ("NVIDIA_DRIVER_CAPABILITIES" in settings) == (kind == "cuda")
    assert not re.search(r"^RUN <<|COPY --link", file, re.MULTILINE)  # buildah knows neither


@pytest.mark.parametrize("kind", IMAGES)
def test_extras_of_the_images_exist(kind):
    extras = (
        re.search(r"\.\[(.*?)\]['\"]", text(f"docker/Dockerfile.{kind}"))[1].replace("${CUDA}", "cuda13").split(",")
    )
    assert {"report", "fast", "store"} <= set(extras)
    assert set(extras) <= set(PROJECT["project"]["optional-dependencies"])


def test_what_is_copied_is_let_through():
    allowed = {line[1:] for line in text(".dockerignore").splitlines() if line.startswith("!")}
    for kind in IMAGES:
        copied = re.findall(r"^COPY (?!--from)(.*) \S+$", text(f"docker/Dockerfile.{kind}"), re.MULTILINE)
        assert {name for line in copied for name in line.split()} <= allowed


def test_the_script_that_tests_the_images_is_sound():
    script = ROOT / "docker" / "test.sh"
    assert script.stat().st_mode & 0o111
    bash = shutil.which("bash")
    assert bash is not None
    assert subprocess.run([bash, "-n", str(script)], check=False).returncode == 0
