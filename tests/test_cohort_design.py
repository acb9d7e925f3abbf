"""Designs: rank and condition against NumPy, contrasts against sums by hand, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from statsmodels.stats.outliers_influence import variance_inflation_factor

from gpuroi.cohort import (
    BadInputsError,
    CohortDesign,
    blocks_of,
    describe,
    design_from_matrix,
    design_of,
    parse_contrast,
    parse_contrasts,
    read_participants,
    summarise_maps,
)
from gpuroi.errors import DataError, UsageError
from gpuroi.inference import permutation_test

pytestmark = pytest.mark.usefixtures("here")

NAMES = ["Intercept", "group[T.patient]", "age", "a-b", "a", "b", "bs(age, df=4)[1]", "x:y", "2 x", "semi;colon"]


def design(names=NAMES, n: int = 20, terms=None) -> CohortDesign:
    matrix = np.random.default_rng(0).normal(size=(n, len(names)))
    return CohortDesign(matrix, list(names), [f"s{i}" for i in range(n)], terms=terms or {})


def people(text: str) -> object:
    Path("participants.tsv").write_text(text)
    return read_participants("participants.tsv", map_column=None)


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("age", {"age": 1}),
        ("-age", {"age": -1}),
        (" + age ", {"age": 1}),
        ("group[T.patient]", {"group[T.patient]": 1}),
        ("a-b", {"a-b": 1}),
        ("a - b", {"a": 1, "b": -1}),
        ("`a`-`b`", {"a": 1, "b": -1}),
        ("2*a - b/2", {"a": 2, "b": -0.5}),
        ("a*2 - 1/2*b", {"a": 2, "b": -0.5}),
        ("(a + b)/2 - age", {"a": 0.5, "b": 0.5, "age": -1}),
        ("-(a - 3*(b - age))", {"a": -1, "b": 3, "age": -3}),
        ("a - -b", {"a": 1, "b": 1}),
        ("1e-3*age", {"age": 1e-3}),
        (".5*age+0.5*age", {"age": 1}),
        ("2*3*age", {"age": 6}),
        ("bs(age, df=4)[1]", {"bs(age, df=4)[1]": 1}),
        ("-bs(age, df=4)[1]+x:y", {"bs(age, df=4)[1]": -1, "x:y": 1}),
        ("2*2 x", {"2 x": 2}),
        ("semi;colon", {"semi;colon": 1}),
        ("age - a + a", {"age": 1}),
    ],
)
def test_rows_by_hand(text, want):
    contrast = parse_contrast(text, design())
    assert contrast.kind == "t"
    assert contrast.weights.shape == (len(NAMES),)
    assert {n: w for n, w in zip(NAMES, contrast.weights, strict=True) if w} == pytest.approx(want)


def test_names_and_several_rows():
    named = parse_contrast("patient=group[T.patient]", design())
    assert (named.name, named.text, named.kind) == ("patient", "group[T.patient]", "t")
    table = parse_contrast("both = a; b", design())
    assert (table.name, table.kind, table.weights.shape) == ("both", "F", (2, len(NAMES)))
    np.testing.assert_array_equal(table.weights[:, NAMES.index("b")], [0, 1])
    one = parse_contrast("bs(age, df=4)[1]", design())
    assert one.name == "bs(age, df=4)[1]"
    assert one.label == "bsAgeDf41"
    assert parse_contrast("semi;colon; a", design()).weights.shape[0] == 2


def test_the_name_of_a_factor_is_its_f_test():
    rows = [f"{k:02d}\t{'xyz'[k % 3]}\t{20 + k * k}" for k in range(12)]
    cohort = people("\n".join(["participant_id\tgroup\tage", *rows, ""]))
    coded = design_of(cohort, "group + poly(age, 2)")
    np.testing.assert_array_equal(parse_contrast("any=group", coded).weights, np.eye(5)[[1, 2]])
    np.testing.assert_array_equal(parse_contrast("poly(age, 2)", coded).weights, np.eye(5)[[3, 4]])
    np.testing.assert_array_equal(parse_contrast("group; poly(age, 2)[1]", coded).weights, np.eye(5)[[1, 2, 3]])
    cells = design_of(cohort, "0 + group")
    np.testing.assert_array_equal(parse_contrast("group", cells).weights, [[-1, 1, 0], [-1, 0, 1]])


def test_the_f_test_of_a_factor_does_not_depend_on_its_coding():
    rows = [f"{k:02d}\t{'xyz'[k % 3]}" for k in range(15)]
    cohort = people("\n".join(["participant_id\tgroup", *rows, ""]))
    data = np.random.default_rng(1).normal(size=(15, 4))
    found = [
        permutation_test(data, d.matrix, parse_contrast("group", d).weights, n_permutations=2, device="cpu").statistic
        for d in (design_of(cohort, "group"), design_of(cohort, "0 + group"))
    ]
    np.testing.assert_allclose(found[0], found[1], rtol=1e-9)


@pytest.mark.parametrize(
    "text",
    [
        "", " ", "=", "x=", ";", "a;", "a;;b", "a b", "a +", "* a", "a *", "a * b", "a / b", "a / 0", "1 / a", "2",
        "a + 1", "(a", "a)", "()", "`a", "a ** 2", "a, b", "a[0]", "1e999*a",
        "(" * 3000 + "a" + ")" * 3000, "-" * 3000 + "a",
        "__import__('os')", "a.__class__", "lambda: a", "a if b else age", "{a}", "a\\b", "a==b", "a@b", "a\0", "agee",
        "`agee`", "age2", "AGE", "name with spaces=age", "a - a", "0*a", "1e-400*a",
    ],
)  # fmt: skip
def test_contrasts_that_are_refused(text):
    with pytest.raises((UsageError, DataError)) as caught:
        parse_contrast(text, design())
    assert caught.value.hint
    assert "contrast" in str(caught.value)


def test_an_unknown_name_lists_those_that_exist():
    with pytest.raises(DataError, match=r'"group\[T.patients\]" is none of the columns of the design') as caught:
        parse_contrast("patient=group[T.patients]", design())
    assert 'did you mean "group[T.patient]"?' in caught.value.hint
    assert "Intercept, group[T.patient], age" in caught.value.hint
    assert caught.value.exit_code == 65


names = st.lists(
    st.text(alphabet="ab12:[].T-+ *(=);é", min_size=1, max_size=8).filter(lambda t: t == t.strip() and t),
    min_size=1,
    max_size=5,
    unique=True,
)
weights = st.floats(-1e6, 1e6).filter(lambda w: abs(w) > 1e-6)


@given(names, st.data())
def test_any_names_in_backticks_come_back(labels, data):
    """Written as a sum, read again: the same weights, whatever the names hold."""
    want = np.array(data.draw(st.lists(weights, min_size=len(labels), max_size=len(labels))))
    text = " ".join(
        f"{'-' if w < 0 else '+'} {abs(w)!r}*`{name}`" for w, name in zip(want.tolist(), labels, strict=True)
    )
    made = CohortDesign(np.random.default_rng(0).normal(size=(12, len(labels))), labels, list("abcdefghijkl"))
    np.testing.assert_array_equal(parse_contrast(text, made).weights, want)


@given(names)
def test_a_name_alone_is_its_column(labels):
    made = CohortDesign(np.random.default_rng(0).normal(size=(12, len(labels))), labels, list("abcdefghijkl"))
    for i, name in enumerate(labels):
        np.testing.assert_array_equal(parse_contrast(name, made).weights, np.eye(len(labels))[i])


@given(st.text(alphabet="ab-+*/()0123456789.;=`[] e_", max_size=20))
def test_any_text_is_a_contrast_or_refused(text):
    try:
        made = parse_contrast(text, design(["a", "b", "a[b]"]))
    except (UsageError, DataError):
        return
    assert np.isfinite(made.weights).all()
    assert np.atleast_2d(made.weights).any(axis=1).all()


expressions = st.recursive(
    st.sampled_from(["a", "b", "age"]),
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from("+-"), inner).map(lambda t: f"({t[0]} {t[1]} {t[2]})"),
        st.tuples(st.integers(1, 9), inner).map(lambda t: f"{t[0]}*{t[1]}"),
        st.tuples(inner, st.integers(1, 9)).map(lambda t: f"{t[0]}/{t[1]}"),
        inner.map(lambda t: f"-({t})"),
    ),
    max_leaves=8,
)


@given(expressions)
def test_arithmetic_is_pythons(text):
    unit = dict(zip(["a", "b", "age"], np.eye(3), strict=True))
    want = eval(text, {}, unit)  # the oracle: our own text of three names, digits and operators
    assume(np.any(want))
    np.testing.assert_allclose(parse_contrast(text, design(["a", "b", "age"])).weights, want, rtol=1e-12, atol=1e-12)


def test_contrasts_need_names_of_their_own():
    got = parse_contrasts(["x=age", "a", "-a"[1:] + " - b"], design())
    assert [c.label for c in got] == ["x", "a", "aB"]
    with pytest.raises(UsageError, match='"a - b" and "a-b": their files would have the same name, contrast-aB'):
        parse_contrasts(["a - b", "a-b"], design())


def test_a_contrast_that_cannot_be_estimated():
    cells = np.repeat(np.eye(3), 4, axis=0)
    made = CohortDesign(np.column_stack([np.ones(12), cells]), ["one", "a", "b", "c"], [str(i) for i in range(12)])
    with pytest.raises(DataError, match="depend on each other"):
        parse_contrast("a", made)
    np.testing.assert_array_equal(parse_contrast("a-b", made).weights, [0, 1, -1, 0])
    assert [c.name for c in made.with_contrasts(["a-b", "diff=b-c"]).contrasts] == ["a-b", "diff"]


@given(hnp.arrays(np.float64, (9, 5), elements=st.integers(-3, 3)))
def test_rank_and_condition_are_numpys(matrix):
    assume(matrix.any())
    found = describe(CohortDesign(matrix, list("abcde"), list("123456789")))
    lengths = np.linalg.norm(matrix, axis=0)
    scaled = matrix / np.where(lengths > 0, lengths, 1)
    assert found["rank"] == np.linalg.matrix_rank(scaled)
    assert found["df"] == 9 - found["rank"]
    assert len(found["collinear"]) == 5 - found["rank"]
    if found["rank"] == 5:
        assert found["condition"] == pytest.approx(np.linalg.cond(scaled), rel=1e-6)
    else:
        assert found["condition"] == np.inf
    for name, combination in found["collinear"].items():
        built = sum((w * matrix[:, "abcde".index(other)] for other, w in combination.items()), np.zeros(9))
        np.testing.assert_allclose(built, matrix[:, "abcde".index(name)], atol=1e-9)


def test_collinear_columns_are_named_with_what_they_combine_to():
    rng = np.random.default_rng(0)
    age, iq = rng.normal(50, 9, 30), rng.normal(100, 15, 30)
    matrix = np.column_stack([np.ones(30), age, iq, 12 * age, age - iq, np.zeros(30)])
    found = describe(
        CohortDesign(matrix, ["Intercept", "age", "iq", "months", "gap", "zero"], [str(i) for i in range(30)])
    )
    assert found["rank"] == 3
    assert found["collinear"]["months"] == pytest.approx({"age": 12})
    assert found["collinear"]["gap"] == pytest.approx({"age": 1, "iq": -1})
    assert found["warnings"] == [
        "months = 12*age: these columns say the same",
        "gap = age - iq: these columns say the same",
        "zero is 0 for everybody",
    ]


def test_inflation_is_that_of_statsmodels():
    rng = np.random.default_rng(0)
    x = rng.normal(1000, 1, size=(50, 3))
    x[:, 2] = x[:, 0] + 0.1 * rng.normal(size=50)
    matrix = np.column_stack([np.ones(50), x])
    found = describe(CohortDesign(matrix, ["Intercept", "a", "b", "c"], [str(i) for i in range(50)]))
    want = [variance_inflation_factor(matrix, j) for j in (1, 2, 3)]
    np.testing.assert_allclose(list(found["inflation"].values()), want, rtol=1e-6)
    assert any("nearly collinear" in told and "a (" in told and "b (" not in told for told in found["warnings"])


def test_no_degrees_of_freedom_are_left():
    with pytest.raises(DataError, match="no degrees of freedom"):
        describe(CohortDesign(np.eye(4), list("abcd"), list("1234")))
    assert "2 degrees of freedom for 3 columns" in describe(design(["a", "b", "c"], n=5))["warnings"]


def test_a_design_from_elsewhere():
    cohort = people("participant_id\tage\n01\t3\n02\t4\n03\t9\n")
    made = design_from_matrix(cohort, [[1, 3], [1, 4], [1, 9]])
    assert (made.names, made.ids) == (["ev1", "ev2"], ["01", "02", "03"])
    by_id = design_from_matrix(cohort, [[9], [3], [4]], ids=["03", "01", "02"])
    np.testing.assert_array_equal(by_id.matrix[:, 0], [3, 4, 9])
    with pytest.raises(DataError, match=r"has 2 rows, participants\.tsv 3"):
        design_from_matrix(cohort, [[1], [2]])
    with pytest.raises(DataError, match=r"row 2 \(02\), column 1 is nan"):
        design_from_matrix(cohort, [[1], [np.nan], [2]])
    with pytest.raises(DataError, match="1 different names for 2 columns"):
        design_from_matrix(cohort, np.ones((3, 2)), names=["a", "a"])
    with pytest.raises(BadInputsError) as caught:
        design_from_matrix(cohort, [[1], [2], [3], [4]], ids=["01", "04", "03", "03"])
    assert [(b.participant_id, b.found) for b in caught.value.bad_inputs] == [
        ("02", "no row"), ("04", "a row"), ("03", "2 rows"),
    ]  # fmt: skip


def test_blocks_are_numbered():
    cohort = people("participant_id\tfamily\ttwin\tcode\n1\tx\t1\t-5\n2\ta\t2\t7\n3\tx\t1\t-5\n4\ta\tn/a\t7\n")
    np.testing.assert_array_equal(blocks_of(cohort, ["family"]), [2, 1, 2, 1])
    np.testing.assert_array_equal(blocks_of(cohort, ["code", "family"]), [[-5, 2], [7, 1], [-5, 2], [7, 1]])
    with pytest.raises(BadInputsError, match=r"4: participants\.tsv: no value of twin"):
        blocks_of(cohort, ["family", "twin"])
    with pytest.raises(DataError, match='"familie" is none of the columns'):
        blocks_of(cohort, ["familie"])


class Rows:
    """Maps that come in rows, and tell how many at once."""

    def __init__(self, data):
        self.all, self.shape, self.asked = data, data.shape, []

    def rows(self, start, stop):
        self.asked.append(stop - start)
        return self.all[start:stop]


def test_correlation_of_complete_maps_is_numpys():
    maps = np.random.default_rng(0).normal(size=(7, 90)) * [[1], [1e3], [1e-3], [1], [1], [1], [1]] + 1e5
    z = (maps - maps.mean(axis=1, keepdims=True)) / maps.std(axis=1, keepdims=True)
    want = [np.corrcoef(maps[i], np.delete(z, i, axis=0).mean(axis=0))[0, 1] for i in range(7)]
    np.testing.assert_allclose(summarise_maps(maps).correlation, want, rtol=1e-5)
    np.testing.assert_allclose(summarise_maps(maps[:2]).correlation, np.corrcoef(maps[:2])[0, 1], rtol=1e-5)
    assert np.isnan(summarise_maps(maps[:1]).correlation).all()
    assert np.isnan(summarise_maps(np.full((3, 9), 0.1)).correlation).all()
    huge = summarise_maps(np.vstack([maps, np.linspace(-1e300, 1e300, 90)]))
    assert huge.outlier.tolist() == [False] * 7 + [True]


def test_coverage_and_correlation_by_hand(monkeypatch):
    rng = np.random.default_rng(0)
    maps = (rng.normal(size=300) * 2 + rng.normal(size=(9, 300)) + 1e6).astype(np.float64)
    maps[2, :30], maps[4, 5], maps[5, 7] = np.nan, np.inf, 0
    maps[:, 40], maps[:, 41], maps[1, 41] = 3, np.nan, 4
    got = summarise_maps(maps)
    finite = np.isfinite(maps)
    np.testing.assert_array_equal(got.n_per_element, finite.sum(axis=0))
    np.testing.assert_array_equal(got.nonfinite, (~finite).sum(axis=1))
    assert np.flatnonzero(got.constant).tolist() == [40, 41]
    assert got.zeros.tolist() == [0, 0, 0, 0, 0, 1, 0, 0, 0]
    known = np.where(finite, maps, np.nan)
    known = (known - np.nanmean(known, axis=1, keepdims=True)) / np.nanstd(known, axis=1, keepdims=True)
    for i in range(9):
        others = np.delete(known, i, axis=0)
        use = finite[i] & (np.delete(finite, i, axis=0).sum(axis=0) > 0)
        want = np.corrcoef(maps[i, use], np.nanmean(others[:, use], axis=0))[0, 1]
        assert got.correlation[i] == pytest.approx(want, rel=1e-6)
    assert got.covered(1.0).sum() == 300 - 30 - 1
    assert got.covered(8 / 9).sum() == 300 - 2
    monkeypatch.setattr("gpuroi.cohort.coverage._BLOCK_BYTES", 2 * 300 * 8)
    source = Rows(maps)
    again = summarise_maps(source)
    assert max(source.asked) == 2
    np.testing.assert_allclose(again.correlation, got.correlation, rtol=1e-9)
    np.testing.assert_array_equal(again.n_per_element, got.n_per_element)


def test_outliers_are_maps_unlike_the_others():
    rng = np.random.default_rng(2)
    maps = rng.normal(size=500) + rng.normal(size=(30, 500))
    assert not summarise_maps(maps).outlier.any()
    maps[4] *= -1
    maps[9] = rng.normal(size=500) * 1e5
    maps[11] = 7
    got = summarise_maps(maps.astype(np.float32))
    assert np.flatnonzero(got.outlier).tolist() == [4, 9, 11]
    assert np.isnan(got.correlation[11])
    assert summarise_maps(maps[:3]).outlier.tolist() == [False] * 3
    with pytest.raises(DataError, match="nothing to look at"):
        summarise_maps(np.empty((3, 0)))
