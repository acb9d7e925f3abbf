"""Run nilearn's own tests against gpuroi.nilearn, and write what passes into docs/nilearn-tests.md.

    python tests/nilearn_suite.py              every suite; writes the page
    python tests/nilearn_suite.py test_image   one suite, or a few; writes nothing

The tests are those of the installed wheel. pytest runs them in a process of their own, with this file as a plugin that
puts our functions where the test modules imported nilearn's. Each file of `nilearn_suites/` names a test module, the
functions to replace, and the tests that fail for a good reason.
"""

from __future__ import annotations

import ast
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import tomllib
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
TABLE = ROOT / "docs" / "nilearn-tests.md"
FOLDER = Path(__file__).parent / "nilearn_suites"
REPORT, CHOSEN = "GPUROI_NILEARN_REPORT", "GPUROI_NILEARN_SUITE"

Outcomes = dict[str, dict[str, str]]  # test -> outcome ("passed", "failed", "skipped") and message


@dataclass(frozen=True)
class Suite:
    """A test module of nilearn's, and what is known of it.

    `corrected` and `not_ours` map a test, or a pattern of tests, to the reason why ours fails it: nilearn is wrong, or
    the test says nothing of our functions.
    """

    suite: str
    names: list[str]
    corrected: dict[str, str] = field(default_factory=dict)
    not_ours: dict[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls, name: str) -> Suite:
        return cls(**tomllib.loads((FOLDER / f"{name}.toml").read_text(encoding="utf-8")))

    def why_corrected(self, test: str) -> str | None:
        return _reason(self.corrected, test)

    def why_not_ours(self, test: str) -> str | None:
        return _reason(self.not_ours, test)

    def unexpected(self, outcomes: Outcomes) -> tuple[list[str], list[str]]:
        """Return tests that fail without a documented reason, and documented patterns under which none fails."""
        failed = [test for test, result in outcomes.items() if result["outcome"] == "failed"]
        new = [test for test in failed if not (self.why_corrected(test) or self.why_not_ours(test))]
        known = [*self.corrected, *self.not_ours]
        gone = [p for p in known if not any(test == p or fnmatchcase(test, _literal(p)) for test in failed)]
        return new, gone


def suite_names() -> list[str]:
    """Names of all suites."""
    return sorted(path.stem for path in FOLDER.glob("*.toml"))


def run_suite(name: str) -> Outcomes:
    """Run the tests of a suite that touch our functions."""
    folder, suite = _nilearn_folder(), Suite.read(name).suite
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
            env={**os.environ, "PYTHONPATH": path, REPORT: str(report), CHOSEN: name, "MPLBACKEND": "agg"},
        )
        if not report.is_file():
            raise RuntimeError(f"pytest did not run {suite}:\n{done.stdout}\n{done.stderr}")
        return json.loads(report.read_text())


def page(results: dict[str, Outcomes]) -> str:
    """Return the page of all suites."""
    import nilearn

    lines = [
        "# nilearn's own tests, pointed at gpuroi.nilearn",
        "",
        f"nilearn {nilearn.__version__}; written by `python tests/nilearn_suite.py`. Of each of its files the tests",
        "that touch these functions are run. A test fails only where nilearn is wrong; the reason stands below.",
        "",
        "| file | functions | tests | pass | skipped | fail, by a correction | not of ours |",
        "|---|---|---|---|---|---|---|",
    ]
    corrected, others = [], []
    for name, outcomes in results.items():
        suite = Suite.read(name)
        kinds = [_kind(suite, test, result["outcome"]) for test, result in outcomes.items()]
        counted = " | ".join(str(kinds.count(kind)) for kind in ("passed", "skipped", "failed", "not ours"))
        functions = ", ".join(f"`{function}`" for function in suite.names)
        lines.append(f"| `{suite.suite}` | {functions} | {len(outcomes)} | {counted} |")
        corrected += [f"| `{suite.suite}` | `{_shown(test)}` | {why} |" for test, why in suite.corrected.items()]
        others += [f"| `{suite.suite}` | `{_shown(test)}` | {why} |" for test, why in suite.not_ours.items()]
    lines += ["", "## What we do otherwise", "", "| file | test | what we do instead |", "|---|---|---|", *corrected]
    lines += ["", "## Not counted", "", "| file | test | why |", "|---|---|---|", *others]
    return "\n".join(lines) + "\n"


def _kind(suite: Suite, test: str, outcome: str) -> str:
    return "not ours" if outcome == "failed" and suite.why_not_ours(test) else outcome


def _reason(reasons: dict[str, str], test: str) -> str | None:
    if test in reasons:
        return reasons[test]
    return next((why for pattern, why in reasons.items() if fnmatchcase(test, _literal(pattern))), None)


def _literal(pattern: str) -> str:
    """A pattern in which only * is special: the brackets are those of pytest's parameters."""
    return pattern.replace("[", "[[]").replace("?", "[?]")


def _shown(test: str) -> str:
    return test.replace("|", "\\|")


def _nilearn_folder() -> Path:
    found = importlib.util.find_spec("nilearn")
    if found is None or found.origin is None:
        raise RuntimeError("nilearn is not installed: pip install 'gpuroi[test]'")
    return Path(found.origin).parent


# ------------------------------------------------------------------ the plugin, in the process that runs the tests


def pytest_collection_modifyitems(config: Any, items: list[Any]) -> None:
    import gpuroi.nilearn

    suite = Suite.read(os.environ[CHOSEN])
    ours = _tests_that_use(_nilearn_folder() / suite.suite, set(suite.names))
    for item in items:
        for name in suite.names:
            if hasattr(item.module, name):
                setattr(item.module, name, getattr(gpuroi.nilearn, name))
    config.hook.pytest_deselected(items=[item for item in items if item.originalname not in ours])
    items[:] = [item for item in items if item.originalname in ours]


def pytest_runtest_logreport(report: Any) -> None:
    if report.when == "call" or report.outcome != "passed":
        name = report.nodeid.split("::", 1)[1]
        _seen[name] = {"outcome": report.outcome, "message": str(report.longrepr or "")[-2000:]}


def pytest_sessionfinish() -> None:
    if REPORT in os.environ:
        Path(os.environ[REPORT]).write_text(json.dumps(_seen))


_seen: Outcomes = {}


def _tests_that_use(module: Path, names: set[str]) -> set[str]:
    """Return the test functions in which a name occurs, or in a function or fixture of the module that they use."""
    functions = {
        node.name: {n.id for n in ast.walk(node) if isinstance(n, ast.Name)} | {a.arg for a in node.args.args}
        for node in ast.walk(ast.parse(module.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef)
    }
    using = {name for name, used in functions.items() if used & names}
    while more := {name for name, used in functions.items() if used & using} - using:
        using |= more
    return {name for name in using if name.startswith("test_")}


def main(chosen: list[str]) -> int:
    """Run suites; 1 if a failure is not documented or a documented one is gone."""
    results = {name: run_suite(name) for name in chosen or suite_names()}
    wrong = 0
    for name, outcomes in results.items():
        suite = Suite.read(name)
        new, gone = suite.unexpected(outcomes)
        for test in new:
            print(f"{suite.suite}::{test} fails without a documented reason\n{outcomes[test]['message']}\n")
        for test in gone:
            print(f"{suite.suite}::{test} is documented, and does not fail")
        kinds = [_kind(suite, test, result["outcome"]) for test, result in outcomes.items()]
        print(f"{name}: " + ", ".join(f"{kinds.count(kind)} {kind}" for kind in sorted(set(kinds))))
        wrong += len(new) + len(gone)
    if not chosen:
        TABLE.write_text(page(results), encoding="utf-8")
    return int(wrong > 0)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
