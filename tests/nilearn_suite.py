"""Run nilearn's own tests against gpuroi.nilearn, and write what passes into docs/nilearn-tests.md.

    python tests/nilearn_suite.py

The tests are those of the installed wheel. pytest runs them in a process of their own, with this file as a plugin that
puts our functions where the test modules imported nilearn's.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
TABLE = ROOT / "docs" / "nilearn-tests.md"
REPORT = "GPUROI_NILEARN_REPORT"

# test file in nilearn -> names in it that are replaced
SUITES = {
    "mass_univariate/tests/test_permuted_least_squares.py": ["permuted_ols"],
    "glm/tests/test_non_parametric_inference.py": ["non_parametric_inference"],
}

# test -> why ours does not pass, where nilearn is wrong
_NO_DF = (
    "three images and three independent regressors leave no degrees of freedom: an error that says so; nilearn goes on "
    "to p-values"
)
CORRECTED = {
    "test_cluster_level_with_covariates": _NO_DF,
    **{
        f"test_contrast_formula[{c}]": _NO_DF
        for c in ("second_level_contrast0", "r1", "r1-r2", "second_level_contrast3")
    },
}

# test -> why it says nothing of ours
NOT_OURS = {
    "test_sanitize_inputs_permuted_ols": "calls a private function of nilearn's",
}


def run_suite(suite: str) -> dict[str, dict[str, str]]:
    """Return outcome ("passed", "failed", "skipped") and message of each test of a file, by its name."""
    folder = _nilearn_folder()
    with tempfile.TemporaryDirectory() as scratch:
        report = Path(scratch) / "report.json"
        command = [
            *(sys.executable, "-m", "pytest", str(folder / suite), "-q", "--tb=short"),
            *("-c", os.devnull, "--rootdir", str(folder.parent), "--confcutdir", str(folder.parent)),
            *("-p", "nilearn_suite", "-p", "no:cacheprovider", "--import-mode=importlib"),
        ]
        path = os.pathsep.join([str(Path(__file__).parent), str(ROOT), os.environ.get("PYTHONPATH", "")])
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            cwd=scratch,
            env={**os.environ, "PYTHONPATH": path, REPORT: str(report), "MPLBACKEND": "agg"},
        )
        if not report.is_file():
            raise RuntimeError(f"pytest did not run {suite}:\n{done.stdout}\n{done.stderr}")
        return json.loads(report.read_text())


def unexpected(suite: str, outcomes: dict[str, dict[str, str]]) -> tuple[set[str], set[str]]:
    """Return tests that fail without a documented correction, and documented ones that do not fail."""
    failed = {name for name, result in outcomes.items() if result["outcome"] == "failed"}
    documented = {name for name in CORRECTED if name.split("[")[0] in _tests_of(suite)}
    return failed - documented, documented - failed


def write_table(results: dict[str, dict[str, dict[str, str]]]) -> str:
    """Return the page of all suites."""
    import nilearn

    lines = [
        "# nilearn's own tests, pointed at gpuroi.nilearn",
        "",
        f"nilearn {nilearn.__version__}; written by `python tests/nilearn_suite.py`. A test fails only where nilearn",
        "is wrong; the reason stands beside it.",
        "",
        "| file | tests | pass | fail, by a correction | not of ours |",
        "|---|---|---|---|---|",
    ]
    for suite, outcomes in results.items():
        ours = {name: r["outcome"] for name, r in outcomes.items() if name not in NOT_OURS}
        n_passed = sum(outcome == "passed" for outcome in ours.values())
        n_failed = sum(outcome == "failed" for outcome in ours.values())
        lines.append(f"| `{suite}` | {len(outcomes)} | {n_passed} | {n_failed} | {len(outcomes) - len(ours)} |")
    lines += ["", "| test | what we do instead |", "|---|---|"]
    for outcomes in results.values():
        failed = [name for name, r in outcomes.items() if r["outcome"] == "failed"]
        lines += [f"| `{name}` | {CORRECTED.get(name, '**not explained**')} |" for name in failed]
    lines += ["", "| test | why it is not counted |", "|---|---|"]
    lines += [f"| `{name}` | {why} |" for name, why in NOT_OURS.items()]
    return "\n".join(lines) + "\n"


# ------------------------------------------------------------------ the plugin, in the process that runs the tests


def pytest_collection_modifyitems(items: list[Any]) -> None:
    import gpuroi.nilearn

    for item in items:
        for suite, names in SUITES.items():
            if str(item.path).endswith(suite):
                for name in names:
                    setattr(item.module, name, getattr(gpuroi.nilearn, name))


def pytest_runtest_logreport(report: Any) -> None:
    if report.when == "call" or report.outcome != "passed":
        name = report.nodeid.split("::", 1)[1]
        _seen[name] = {"outcome": report.outcome, "message": str(report.longrepr or "")[-2000:]}


def pytest_sessionfinish() -> None:
    if REPORT in os.environ:
        Path(os.environ[REPORT]).write_text(json.dumps(_seen))


_seen: dict[str, dict[str, str]] = {}


def _nilearn_folder() -> Path:
    found = importlib.util.find_spec("nilearn")
    if found is None or found.origin is None:
        raise RuntimeError("nilearn is not installed: pip install 'gpuroi[test]'")
    return Path(found.origin).parent


def _tests_of(suite: str) -> set[str]:
    source = (_nilearn_folder() / suite).read_text()
    return {line[4:].split("(")[0] for line in source.splitlines() if line.startswith("def test_")}


def main() -> int:
    """Run all suites, write the page; 1 if a failure is not documented or a documented one is gone."""
    results = {suite: run_suite(suite) for suite in SUITES}
    TABLE.parent.mkdir(exist_ok=True)
    TABLE.write_text(write_table(results))
    wrong = 0
    for suite, outcomes in results.items():
        new, gone = unexpected(suite, outcomes)
        for name in sorted(new):
            print(f"{suite}::{name} fails without a documented correction\n{outcomes[name]['message']}\n")
        for name in sorted(gone):
            print(f"{suite}::{name} is documented as a correction, and passes")
        wrong += len(new) + len(gone)
    return int(wrong > 0)


if __name__ == "__main__":
    raise SystemExit(main())
