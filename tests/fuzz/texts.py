"""Formulas and contrasts: from the grammar, from pieces of Python, and from noise."""

from __future__ import annotations

import ast
import re
import tempfile
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pandas as pd

from gpuroi.cohort import CohortDesign, design_of, parse_contrast, read_participants
from gpuroi.errors import GpuroiError

from .judge import TRAP, Case, Target, WrongAnswerError
from .mutate import WORDS

__all__ = ["TARGETS"]

_CODE = (
    f"{TRAP}()", f"{TRAP}(age)", f"`{TRAP}()`", f"I({TRAP}())", f"Q('{TRAP}()')", f"C({TRAP}())", f"log({TRAP}())",
    f"{{{TRAP}()}}", f"[{TRAP}()]", f"eval('{TRAP}()')", f"__import__('builtins').{TRAP}()", "__builtins__",
    f"(lambda: {TRAP}())()", f"[{TRAP}() for x in (1,)][0]", f"age.__class__.__mro__[1].{TRAP}", "age.sum()",
    f"().__class__.__base__.__subclasses__() or {TRAP}()", f"f'{{{TRAP}()}}'", f"@{TRAP}", f"age if {TRAP}() else iq",
    f"age;{TRAP}()", f"age\n{TRAP}()", f"age#{TRAP}()", f"poly(age, {TRAP}())", f"bs(iq, df={TRAP}())", "np.log(iq)",
    f"bs(iq, df=4, knots={TRAP}())", f"C(group, contr.treatment({TRAP}()))", f"{TRAP}", f"{TRAP}.x", "open('x','w')",
    f"%{{{TRAP}()}}", f"${{{TRAP}()}}", f"{{0.__init__.__globals__[{TRAP}]}}", f"age={TRAP}()", f"age:={TRAP}()",
)  # fmt: skip
_TERMS = (
    "age", "iq", "group", "sex", "site", "1", "0", "`body mass`", f"`{TRAP}()`", "C(site)", "C(group)", "center(age)",
    "scale(iq)", "log(iq)", "poly(age, 2)", "poly(iq, degree=3)", "bs(iq, df=4)", "center(log(iq))", "map",
)  # fmt: skip
_SIGNS = (" + ", " + ", " + ", ":", "*", "/", " - ", "**", " ~ ", "", " ", "|", "%", ",")
_N = 18


@cache
def _people() -> Any:
    """A table, one column of which has the name of a call."""
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(
        {
            "participant_id": [f"{k:02d}" for k in range(_N)],
            "group": rng.permutation(["a", "b", "c"] * (_N // 3)),
            "sex": rng.permutation(["M", "F"] * (_N // 2)),
            "age": rng.integers(20, 80, _N),
            "iq": np.round(rng.normal(100, 15, _N), 2),
            "site": rng.permutation([1, 2, 10] * (_N // 3)),
            "body mass": np.round(rng.normal(70, 9, _N), 1),
            f"{TRAP}()": rng.integers(1, 9, _N),
        }
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "participants.tsv"
        frame.to_csv(path, sep="\t", index=False)
        return read_participants(path, map_column=None), frame


def _formula(random: Random, folder: Path) -> Case:
    text = _joined(random, _TERMS)
    if random.random() < 0.3:
        text = random.choice(("map ~ ", "~", "map~", "y ~ ", "~ ~")) + text
    people, frame = _people()
    return Case(lambda: design_of(people, text), lambda answer: _as_formulaic(text, frame, answer))


def _contrast(random: Random, folder: Path) -> Case:
    names = ("age", "Intercept", "`a b`", "a b", "group[T.b]", "2", "0.5", "1e3", "-1", "3*age", "f", "age/2", "=", ";")
    text = _joined(random, names)
    if random.random() < 0.2:
        text = random.choice(("x=", "two words = ", "=", "age=", "x=y=", "`x`=")) + text
    design = _design()
    return Case(lambda: parse_contrast(text, design), lambda answer: _as_arithmetic(text, design, answer))


def _joined(random: Random, terms: tuple[str, ...]) -> str:
    """Return terms with signs between, in parentheses at times, with code or noise put in at times."""
    if random.random() < 0.02:
        return _deep(random, terms[0])
    text = random.choice(terms)
    for _ in range(random.choice((0, 1, 1, 2, 3, 6))):
        text += random.choice(_SIGNS if random.random() < 0.3 else _SIGNS[:7]) + random.choice(terms)
        if random.random() < 0.25:
            text = f"({text})"
    for _ in range(random.choice((0, 0, 0, 1, 1, 2))):
        at = random.randrange(len(text) + 1)
        piece = random.choice(_CODE) if random.random() < 0.6 else random.choice((*WORDS, *"+-*/:()`[]{}=~;,.\\'\""))
        text = text[:at] + random.choice((" + ", "", "", "(", " ")) + piece + text[at:]
    return text


def _deep(random: Random, term: str) -> str:
    n = random.choice((15, 19, 20, 21, 30, 1000, 100_000))
    return random.choice(
        (
            "(" * n + term + ")" * n, "-" * n + term, term + f" + {term}" * n, "(" * n, term + ")" * n, "2*" * n + term,
            f"{term}:" * min(n, 1000) + term, f"({term} + iq)**4" + "**4" * n, "log(" * n + term + ")" * n, term * n,
            f"{term};" * n + term, "`" * n, "=" * n, term + "/2" * n, "1" * n + "*" + term, "~" * n,
        )
    )  # fmt: skip


def _as_formulaic(text: str, frame: pd.DataFrame, answer: Any) -> str:
    """Hold a design against the one that formulaic makes of the formula as it was written."""
    if isinstance(answer, GpuroiError):
        return "refused"
    if not np.isfinite(answer.matrix).all() or answer.matrix.shape != (_N, len(answer.names)):
        raise WrongAnswerError(f"a matrix of {answer.matrix.shape} with names {answer.names}")
    from formulaic import model_matrix

    try:
        theirs = np.asarray(model_matrix(text.rpartition("~")[2], frame, context={}), dtype=np.float64)
    except Exception:  # what it raises depends on the formula
        return "unchecked"
    if theirs.shape != answer.matrix.shape or not np.allclose(theirs, answer.matrix, rtol=1e-9):
        raise WrongAnswerError(f"{text!r}: columns {answer.names}, formulaic makes {theirs.shape[1]}")
    return "agrees"


@cache
def _design() -> CohortDesign:
    matrix = np.random.default_rng(1).normal(size=(_N, 5))
    names = ["Intercept", "age", "a b", "group[T.b]", "f"]
    return CohortDesign(matrix, names, [str(k) for k in range(_N)], terms={"group": [3]})


def _as_arithmetic(text: str, design: CohortDesign, answer: Any) -> str:
    """Hold the weights against those that Python's own grammar gives, where the text is one sum of plain names."""
    if isinstance(answer, GpuroiError):
        return "refused"
    if not np.isfinite(answer.weights).all() or answer.weights.shape[-1] != len(design.names):
        raise WrongAnswerError(f"weights {answer.weights}")
    body = answer.text
    if answer.kind == "F" or len(body) > 2000 or not re.fullmatch(r"[\w\s.+\-*/()]+", body):
        return "unchecked"
    try:
        tree = ast.parse(body.replace("a b", "a_b").strip(), mode="eval")
        values = {
            name.replace(" ", "_"): row for name, row in zip(design.names, np.eye(len(design.names)), strict=True)
        }
        expected = _value(tree.body, values)
    except (SyntaxError, KeyError, RecursionError, TypeError):
        return "unchecked"
    if not np.allclose(expected, answer.weights, rtol=1e-9, atol=0):
        raise WrongAnswerError(f"{text!r}: {answer.weights}, expected {expected}")
    return "agrees"


def _value(node: ast.AST, names: dict[str, np.ndarray[Any, Any]]) -> Any:
    match node:
        case ast.Name(id=name):
            return names[name]
        case ast.Constant(value=int() | float() as value):
            return value
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_value(operand, names)
        case ast.UnaryOp(op=ast.UAdd(), operand=operand):
            return _value(operand, names)
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            return _value(left, names) + _value(right, names)
        case ast.BinOp(left=left, op=ast.Sub(), right=right):
            return _value(left, names) - _value(right, names)
        case ast.BinOp(left=left, op=ast.Mult(), right=right):
            return _value(left, names) * _value(right, names)
        case ast.BinOp(left=left, op=ast.Div(), right=right):
            return _value(left, names) / _value(right, names)
    raise TypeError(ast.dump(node))


TARGETS = (Target("formulas", _formula, 7), Target("contrasts", _contrast, 8))
