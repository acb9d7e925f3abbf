"""What CuPy has: the names of its functions and their parameters, as recorded from the real package.

The stand-in offers nothing else, so that a call which works on it cannot fail on a device for want of a function or an
argument. `cupy_api.txt` was written by CuPy itself. CuPy imports without a GPU; to record another version:

    pip install cupy-cuda13x scipy && python tests/rig/cupy_api.py
"""

from __future__ import annotations

import functools
import importlib
import inspect
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["Signature", "cupy_api", "record"]

_FILE = Path(__file__).resolve().with_name("cupy_api.txt")
_MODULES = ("cupy", "cupy.linalg", "cupy.ndarray", "cupyx.scipy.ndimage", "cupyx.scipy.special", "cupyx.scipy.stats")


@dataclass(frozen=True)
class Signature:
    """What a name of CuPy is, and which arguments it takes.

    Parameters
    ----------
    kind : {"function", "ufunc", "value"}
        A value is a constant, a dtype or an attribute.
    positional : tuple of str
        Parameters in order.
    keywords : frozenset of str
        All that can be given by name.
    open : bool
        It takes any number of positional arguments.
    """

    kind: str
    positional: tuple[str, ...] = ()
    keywords: frozenset[str] = frozenset()
    open: bool = False

    def refuse(self, name: str, n_args: int, keywords: frozenset[str]) -> None:
        """Raise TypeError, as Python would, if CuPy does not take these arguments."""
        if self.kind == "ufunc":
            return  # checked by the ufunc, which knows how many operands it has
        if n_args > len(self.positional) and not self.open:
            raise TypeError(f"{name}() of CuPy takes {len(self.positional)} positional arguments, got {n_args}")
        unknown = sorted(keywords - self.keywords)
        if unknown:
            raise TypeError(f"{name}() of CuPy has no argument {', '.join(unknown)}")


@functools.cache
def cupy_api() -> dict[str, dict[str, Signature]]:
    """Return module -> name -> signature.

    Examples
    --------
    >>> cupy_api()["cupy"]["percentile"].positional[:3]
    ('a', 'q', 'axis')
    >>> "mad_eyed" in cupy_api()["cupy"]
    False
    """
    api: dict[str, dict[str, Signature]] = {module: {} for module in _MODULES}
    for line in _FILE.read_text(encoding="ascii").splitlines():
        if not line.startswith("#"):
            path, kind, *words = line.split()
            module, _, name = path.rpartition(".")
            api[module][name] = _signature(kind, words)
    return api


def record() -> list[str]:
    """Return the lines of the file, from the CuPy that is installed."""
    version = importlib.import_module("cupy").__version__
    lines = [f"# CuPy {version}, written by cupy_api.py: name, kind, parameters (* keyword only, ... any number)"]
    for module in _MODULES:
        package, _, last = module.rpartition(".")
        owner = getattr(importlib.import_module(package), last) if package else importlib.import_module(module)
        for name in sorted(dir(owner)):
            if not name.startswith("_"):
                found = _describe(getattr(owner, name))
                if found:
                    lines.append(f"{module}.{name} {found}")
    return lines


def _signature(kind: str, words: list[str]) -> Signature:
    names = [word for word in words if word != "..."]
    return Signature(
        kind,
        tuple(name for name in names if not name.startswith("*")),
        frozenset(name.lstrip("*") for name in names),
        "..." in words,
    )


def _describe(value: Any) -> str:
    if inspect.ismodule(value) or (inspect.isclass(value) and value.__module__.startswith("cupy")):
        return ""
    if type(value).__name__ == "ufunc" or (type(value).__module__.startswith("cupy") and callable(value)):
        return "ufunc"
    if not callable(value) or inspect.isclass(value):
        return "value"
    try:
        parameters = list(inspect.signature(value).parameters.values())
    except ValueError:  # compiled: its first line of documentation is the signature
        return "function " + " ".join(_documented(value.__doc__ or ""))
    return "function " + " ".join(_word(p) for p in parameters if p.name != "self")


def _word(parameter: inspect.Parameter) -> str:
    if parameter.kind is parameter.VAR_POSITIONAL:
        return "..."
    if parameter.kind is parameter.VAR_KEYWORD:
        return "**"
    return ("*" if parameter.kind is parameter.KEYWORD_ONLY else "") + parameter.name


def _documented(text: str) -> list[str]:
    """`name(self, axis=None, *shape, order='C') -> ...`, written by Cython."""
    found = re.match(r"[\w.]*\((.*?)\)(?: ->|\s*$)", text.partition("\n")[0])
    words: list[str] = []
    star = ""
    for part in re.split(r",\s*(?![^(]*\))", found[1] if found else ""):
        name = re.sub(r"\s*[=:].*", "", part).split()[-1:] or [""]
        if part.startswith("*"):
            words += ["..."] if len(part) > 1 else []
            star = "*"
        elif name[0] and name[0] != "self":
            words.append(star + name[0])
    return words


if __name__ == "__main__":
    _FILE.write_text("\n".join(record()) + "\n", encoding="ascii")
