"""nilearn's own tests, pointed at gpuroi.nilearn: what fails is documented, and nothing else."""

from __future__ import annotations

import nilearn_suite
import pytest

import gpuroi.nilearn


@pytest.mark.parametrize("name", nilearn_suite.suite_names())
def test_only_documented_corrections_fail(name):
    outcomes = nilearn_suite.run_suite(name)
    new, gone = nilearn_suite.Suite.read(name).unexpected(outcomes)
    assert len(outcomes) > 10
    assert not new, "\n".join(outcomes[test]["message"] for test in new)
    assert not gone


def test_every_reason_is_on_the_page():
    page = nilearn_suite.TABLE.read_text()
    for name in nilearn_suite.suite_names():
        suite = nilearn_suite.Suite.read(name)
        assert f"| `{suite.suite}` |" in page
        for test, reason in {**suite.corrected, **suite.not_ours}.items():
            assert f"`{test}` | {reason} |" in page.replace("\\|", "|")


def test_every_drop_in_is_in_a_suite():
    tested = {function for name in nilearn_suite.suite_names() for function in nilearn_suite.Suite.read(name).names}
    assert tested | {"load_img"} == set(gpuroi.nilearn.__all__)  # nilearn has no test file that calls load_img
