"""nilearn's own tests, pointed at gpuroi.nilearn: what fails is documented, and nothing else."""

from __future__ import annotations

import nilearn_suite as suite
import pytest


@pytest.mark.parametrize("file", suite.SUITES)
def test_only_documented_corrections_fail(file):
    outcomes = suite.run_suite(file)
    new, gone = suite.unexpected(file, outcomes)
    assert len(outcomes) > 20
    assert "skipped" not in {result["outcome"] for result in outcomes.values()}
    assert not new, "\n".join(outcomes[name]["message"] for name in new)
    assert not gone


def test_every_correction_is_on_the_page():
    page = suite.TABLE.read_text()
    for name, reason in suite.CORRECTED.items():
        assert f"| `{name}` | {reason} |" in page
    assert "not explained" not in page
