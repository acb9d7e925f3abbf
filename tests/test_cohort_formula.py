"""Formulas: the matrix against formulaic's and by hand, and what never reaches formulaic."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from formulaic import model_matrix
from hypothesis import given
from hypothesis import strategies as st

from gpuroi.cohort import BadInputsError, design_of, read_participants
from gpuroi.cohort.formula import read_formula
from gpuroi.errors import DataError, UsageError

pytestmark = pytest.mark.usefixtures("here")

N = 24


def table() -> pd.DataFrame:
    rng = np.random.default_rng(3)
    return pd.DataFrame(
        {
            "participant_id": [f"{k:02d}" for k in range(N)],
            "group": rng.permutation(["patient", "control", "sibling"] * (N // 3)),
            "sex": rng.permutation(["M", "F"] * (N // 2)),
            "age": rng.integers(20, 80, N),
            "iq": np.round(rng.normal(100, 15, N), 2),
            "site": rng.permutation([1, 2, 10] * (N // 3)),
            "body mass (kg)": np.round(rng.normal(70, 9, N), 1),
            "log": rng.integers(1, 9, N),
        }
    )


def people(frame: pd.DataFrame) -> object:
    frame.to_csv("participants.tsv", sep="\t", index=False, na_rep="n/a")
    return read_participants("participants.tsv", map_column=None)


@pytest.mark.parametrize(
    "formula",
    [
        "1",
        "group + age + sex",
        "group * age",
        "group:age + sex",
        "0 + group + sex",
        "age + group - 1",
        "(group + sex + age) ** 2",
        "group / age",
        "C(site) + center(age)",
        "C(site):sex + scale(iq)",
        "poly(age, 3) + sex",
        "bs(iq, df=4)",
        "log(iq) + center(log(iq)):sex",
        "age + `body mass (kg)`",
        "scale(`body mass (kg)`) + C(group)",
        "-1 + age:sex",
    ],
)
@pytest.mark.parametrize("left", ["", "map ~ ", "~"])
def test_matrix_and_names_are_formulaics(formula, left):
    frame = table()
    design = design_of(people(frame), left + formula)
    want = model_matrix(formula, frame.drop(columns="log"), na_action="raise")
    assert design.names == [str(name) for name in want.columns]
    np.testing.assert_allclose(design.matrix, want.to_numpy(float), rtol=1e-13, atol=1e-13)
    assert design.ids == frame["participant_id"].tolist()


def test_coding_by_hand():
    frame = pd.DataFrame(
        {
            "participant_id": list("abcdef"),
            "group": ["z", "b", "z", "b", "a", "a"],
            "age": [30, 20, 50, 40, 60, 35],
        }
    )
    design = design_of(people(frame), "map ~ group * center(age)")
    group, age = frame["group"].to_numpy(), frame["age"].to_numpy() - frame["age"].mean()
    want = [np.ones(6), group == "b", group == "z", age, (group == "b") * age, (group == "z") * age]
    np.testing.assert_allclose(design.matrix, np.column_stack(want))
    assert design.names[:3] == ["Intercept", "group[T.b]", "group[T.z]"]
    assert design.terms == {"group": [1, 2], "center(age)": [3], "group:center(age)": [4, 5]}


def test_scale_divides_by_n_minus_1():
    frame = table()
    got = design_of(people(frame), "0 + scale(iq)").matrix[:, 0]
    np.testing.assert_allclose(got, (frame["iq"] - frame["iq"].mean()) / frame["iq"].std(ddof=1))


def test_polynomials_are_orthogonal():
    got = design_of(people(table()), "poly(age, 3)").matrix
    np.testing.assert_allclose(got[:, 1:].T @ got[:, 1:], np.eye(3), atol=1e-12)
    np.testing.assert_allclose(got[:, 1:].sum(axis=0), 0, atol=1e-12)


def test_a_column_may_have_the_name_of_a_function():
    frame = table()
    got = design_of(people(frame), "log(log) + log")
    assert got.names == ["Intercept", "log(log)", "log"]
    np.testing.assert_allclose(got.matrix[:, 1], np.log(frame["log"]))


def test_names_and_levels_that_look_like_code():
    """What is in the table is data, whatever it looks like."""
    frame = pd.DataFrame(
        {
            "participant_id": list("abcdefgh"),
            "__import__('os').system('touch hacked')": [1, 2, 3, 4, 5, 6, 7, 9],
            "{0}": [3, 1, 4, 1, 5, 9, 2, 6],
            "g": ["column0_", "{1}", "column0_", "{1}", "x[T.y]:", "x[T.y]:", "a:b", "a:b"],
            "lambda": [2, 7, 1, 8, 2, 8, 1, 9],
        }
    )
    formula = "`__import__('os').system('touch hacked')` + log(`{0}`) + g + lambda"
    design = design_of(people(frame), formula)
    assert not Path("hacked").exists()
    assert design.names == [
        "Intercept",
        "__import__('os').system('touch hacked')",
        "log(`{0}`)",
        "g[T.column0_]",
        "g[T.x[T.y]:]",
        "g[T.{1}]",
        "lambda",
    ]
    place = design.names.index("g[T.column0_]")
    np.testing.assert_array_equal(design.matrix[:, place], frame["g"] == "column0_")
    np.testing.assert_array_equal(design.matrix[:, 1], frame.iloc[:, 1])


HOSTILE = [
    "__import__('os').system('touch hacked')",
    "age + __import__",
    "__class__",
    "age.__class__",
    "age.sum()",
    "{age}",
    "{__import__('os')}",
    "Q('age')",
    "I(age)",
    "eval(age)",
    "open(age)",
    "np.log(age)",
    "exp(age)",
    "log",
    "log()",
    "log(age, 2)",
    "log(1)",
    "log('age')",
    "log(age + iq)",
    "log(C(group))",
    "C(log(age))",
    "C(age, contr.treatment('a'))",
    "C(group, Sum)",
    "poly(age)",
    "poly(age, x)",
    "poly(age, 0)",
    "poly(age, 99)",
    "poly(age, 2, raw=True)",
    "bs(age, 4)",
    "bs(age, df=2)",
    "bs(age, knots=[3])",
    "bs(age, df=4, degree=1)",
    "lambda: 0",
    "[x for x in (1,)]",
    "(yield)",
    "age if sex else iq",
    "age and sex",
    "age == 3",
    "age; sex",
    "age\\",
    "age\nimport os",
    "age # x",
    "age @ sex",
    "age | sex",
    "age % 2",
    "age ^ 2",
    "age ** sex",
    "age ** 2.5",
    "age ** 9",
    "2 * age",
    "age + 2",
    "age[0]",
    "age ~ sex ~ iq",
    "y ~ age",
    "log(map) ~ age",
    "",
    "   ",
    "~",
    "map ~",
    "age +",
    "+",
    "age age",
    "(age",
    "age)",
    "()",
    "``",
    "`age",
    "`no such`",
    "3t",
    "age + é\u202e",
    "(" * 5000 + "age" + ")" * 5000,
    "-" * 5000 + "age",
    "age" + ":age" * 100 + "!",
    "\0",
    "age, sex",
    "group(age)",
    "...",
    "*",
    "**",
    "f'{age}'",
    "'age'",
    '"age"',
]


@pytest.mark.parametrize("formula", HOSTILE)
def test_hostile_formulas_never_reach_formulaic(formula, monkeypatch):
    def reached(*_, **__):
        raise AssertionError("formulaic was called")

    monkeypatch.setattr("formulaic.model_matrix", reached)
    with pytest.raises((UsageError, DataError)) as caught:
        design_of(people(table()), formula)
    assert len(str(caught.value)) < 1500
    assert not Path("hacked").exists()


@given(st.text(alphabet="ab~+-:*/()01 ,=`.[]{}'\"_\\Clogpoly2", max_size=25))
def test_any_text_is_read_or_refused(formula):
    """What passes is made of placeholders, operators, functions and digits alone."""
    try:
        read = read_formula(formula, ["a", "b", "a b"])
    except (UsageError, DataError):
        return
    rest = read.text
    for word in ("poly", "center", "scale", "log", "bs", "C", "df=", "{0}", "{1}", "{2}"):
        rest = rest.replace(word, "")
    assert set(rest) <= set("+-:*/()01234, ")


def test_refusals_say_where_and_what():
    with pytest.raises(UsageError, match='character 7: "%" is no part'):
        read_formula("age + %", ["age"])
    with pytest.raises(UsageError, match='"exp" is no function') as caught:
        read_formula("exp(age)", ["age"])
    assert "bs" in caught.value.hint
    assert caught.value.exit_code == 2
    with pytest.raises(DataError, match='"agee" is none of the columns') as unknown:
        read_formula("agee", ["age", "sex"])
    assert 'did you mean "age"?' in unknown.value.hint
    assert unknown.value.exit_code == 65


def test_rows_without_a_covariate_go_with_a_reason():
    frame = table()
    frame["age"] = frame["age"].astype(float)
    frame.loc[[3, 17], "age"] = np.nan
    frame.loc[5, "iq"] = np.nan  # not in the formula
    frame.loc[8, "sex"] = None
    design = design_of(people(frame), "age + sex")
    assert len(design.ids) == len(design.matrix) == N - 3
    assert set(design.ids) == set(frame["participant_id"]) - {"03", "08", "17"}
    excluded = design.participants.excluded
    assert excluded[["participant_id", "detail"]].to_numpy().tolist() == [["03", "age"], ["08", "sex"], ["17", "age"]]
    row = frame.set_index("participant_id")["age"].to_dict()
    np.testing.assert_array_equal(design.matrix[:, design.names.index("age")], [row[i] for i in design.ids])
    with pytest.raises(BadInputsError, match="3 problems"):
        design_of(people(frame), "age + sex", missing="error")


def test_levels_of_numbers_keep_their_names_after_an_exclusion():
    frame = table()
    frame["site"] = frame["site"].astype(object)
    frame.loc[2, "site"] = None
    assert design_of(people(frame), "C(site)").names == ["Intercept", "C(site)[T.2]", "C(site)[T.10]"]


def test_covariates_that_tell_nothing_are_named_together():
    frame = table()
    frame["same"], frame["word"] = 7, "x"
    frame.loc[4, "group"] = "lonely"
    frame.loc[6, "site"] = 11
    frame["mixed"] = ["12", "twelve"] * (N // 2)
    frame["endless"] = [np.inf, *range(N - 1)]
    formula = "same + word + group + C(site) + mixed + endless + log(sex)"
    with pytest.raises(BadInputsError) as caught:
        design_of(people(frame), formula)
    found = [one.found for one in caught.value.bad_inputs]
    assert found[0] == 'same is "7" for all 24 people'
    assert found[1] == 'word is "x" for all 24 people'
    assert found[2] == 'level "lonely" of group has one person (04)'
    assert found[3] == 'level "11" of site has one person (06)'
    assert found[4].startswith('mixed mixes numbers with text: "twelve" (01), "twelve" (03)')
    assert found[5] == "endless is infinite for 00"
    assert found[6] == "sex is text"
    assert len(found) == 7
    assert caught.value.exit_code == 65


def test_a_level_that_an_exclusion_leaves_alone():
    frame = table()
    frame["age"] = frame["age"].astype(float)
    gone = frame.index[frame["group"] == "sibling"][1:]
    frame.loc[gone, "age"] = np.nan
    with pytest.raises(BadInputsError, match='level "sibling" of group has one person'):
        design_of(people(frame), "age + group")
    assert design_of(people(frame), "group").matrix.shape == (N, 3)


def test_values_that_a_function_cannot_take():
    frame = table()
    frame.loc[2, "iq"] = 0.0
    frame.loc[9, "iq"] = -3.0
    with pytest.raises(BadInputsError, match=r"log\(iq\) of 0.0 \(02\), -3.0 \(09\); expected numbers above 0"):
        design_of(people(frame), "log(iq) + age")
    with pytest.raises(DataError, match=r"log\(center\(age\)\)"):
        design_of(people(frame), "log(center(age))")
    with pytest.raises(DataError, match=r"poly\(x, 3\)"):
        design_of(people(pd.DataFrame({"participant_id": list("abcd"), "x": [1, 2, 1, 2]})), "poly(x, 3)")
    frame["huge"] = np.geomspace(1e100, 1e200, N)
    with pytest.raises(DataError, match=r"huge:log\(log\)|huge:age") as caught:
        design_of(people(frame.assign(age=frame["huge"])), "huge:age")
    assert "is no finite number for 13, 14" in caught.value.message
    with pytest.raises(UsageError, match="without a column"):
        design_of(people(frame), "0")


def test_blocks_follow_the_people():
    frame = table()
    frame["family"] = [f"f{k // 2}" for k in range(N)]
    frame["twin"] = [k % 2 + 1 for k in range(N)]
    frame["age"] = frame["age"].astype(float)
    frame.loc[[0, 1], "age"] = np.nan
    design = design_of(people(frame), "age", blocks=["family", "twin"])
    np.testing.assert_array_equal(design.blocks[:, 1], frame["twin"][2:])
    assert len(np.unique(design.blocks[:, 0])) == N // 2 - 1
    assert design_of(people(frame), "age", blocks=["family"]).blocks.shape == (N - 2,)
    frame.loc[5, "family"] = None
    assert "05" not in design_of(people(frame), "age", blocks=["family"]).ids
    with pytest.raises(DataError, match='"familly" is none of the columns'):
        design_of(people(frame), "age", blocks=["familly"])
