"""Pages of Markdown, run: Python blocks with what they print, console blocks; and job scripts, taken apart."""

from __future__ import annotations

import contextlib
import doctest
import io
import os
import re
import shlex
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

PYTHON = re.compile(r"^```python\n(?P<code>.*?)^```$(?:\n+^```text\n(?P<printed>.*?)^```$)?", re.MULTILINE | re.DOTALL)
PROGRAMS = ("gpuroi", "gpuroi-bids")
# What runs a program: its words up to ours. "image" and "sif" stand for gpuroi itself.
_IMAGE = re.compile(r"gpuroi:\w+|gpuroi\.sif|cpu|cuda")
_FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


def python_blocks(page: Path) -> list[tuple[str, str | None, int]]:
    """Code, what it prints (None: not said) and the line of each block."""
    text = page.read_text(encoding="utf-8")
    return [(m["code"], m["printed"], text[: m.start("code")].count("\n")) for m in PYTHON.finditer(text)]


def run_python(page: Path) -> None:
    """Run the Python blocks one after the other, as a reader would, and compare what they print."""
    names: dict[str, object] = {"__name__": "docs"}
    for code, wanted, line in python_blocks(page):
        printed = io.StringIO()
        with warnings.catch_warnings(), contextlib.redirect_stdout(printed):
            warnings.simplefilter("ignore")  # nilearn warns of what its users would see too
            exec(compile("\n" * line + code, str(page), "exec"), names)
        got = printed.getvalue()
        if wanted is None:
            assert got == "", f"{page.name}:{line}: prints what the page does not show:\n{got}"
        else:
            check_printed(code, wanted, got, f"{page.name}:{line}")


def check_printed(source: str, wanted: str, got: str, where: str) -> None:
    checker, example = doctest.OutputChecker(), doctest.Example(source, wanted)
    assert checker.check_output(wanted, got, _FLAGS), f"{where}\n{checker.output_difference(example, got, _FLAGS)}"


def fenced(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


def console_commands(page: Path) -> list[tuple[str, str]]:
    """Each command of the console blocks, with the output that is shown below it."""
    found: list[tuple[str, str]] = []
    for block in fenced(page, "console"):
        for line in block.replace("\\\n", " ").splitlines(keepends=True):
            if line.startswith("$ "):
                found.append((line[2:].strip(), ""))
            else:
                found[-1] = (found[-1][0], found[-1][1] + line)
    return found


def expanded(words: list[str], folder: Path) -> list[str]:
    """Words with a * as a shell expands them."""
    out: list[str] = []
    for word in words:
        out += sorted(str(path.relative_to(folder)) for path in folder.glob(word)) if "*" in word else [word]
    return out


def script_commands(script: str) -> list[list[str]]:
    """The commands of gpuroi in a shell script, whatever starts them, with a number for every variable."""
    found = []
    for line in script.replace("\\\n", " ").splitlines():
        words = [re.sub(r"\$\{?\w+\}?", "1", word) for word in _words(line)]
        entry = words[words.index("--entrypoint") + 1] if "--entrypoint" in words else "gpuroi"
        ours = next((k for k, word in enumerate(words) if word in PROGRAMS and words[k - 1] != "--entrypoint"), None)
        image = next((k for k, word in enumerate(words) if _IMAGE.fullmatch(word)), None)
        runs = {"run", "exec"} & set(words[:image]) if image is not None else set()
        if ours is not None:
            found.append(words[ours:])
        elif runs:
            found.append([entry, *words[image + 1 :]])
    return found


def _words(line: str) -> list[str]:
    line = re.sub(r"\$\([^)]*\)", "1", line)
    try:
        return shlex.split(line, comments=True)
    except ValueError:
        return []  # a line of a script that is no single command


def cell_commands(page: Path) -> list[str]:
    """Code in the last column of the tables that speaks of gpuroi, or of its options."""
    found: list[str] = []
    for line in page.read_text(encoding="utf-8").splitlines():
        if line.startswith("|") and not line.startswith("|--"):
            found += re.findall(r"`((?:gpuroi |--)[^`]+)`", line.rstrip(" |").rpartition(" | ")[2])
    return found


@contextlib.contextmanager
def folder_of(path: Path) -> Any:
    """Work in a folder, on the CPU."""
    before, device = Path.cwd(), os.environ.get("GPUROI_DEVICE")
    os.chdir(path)
    os.environ["GPUROI_DEVICE"] = "cpu"
    try:
        yield
    finally:
        os.chdir(before)
        if device is None:
            del os.environ["GPUROI_DEVICE"]
        else:
            os.environ["GPUROI_DEVICE"] = device


def run_console(page: Path, folder: Path, main: Callable[[list[str]], int], capsys: Any) -> int:
    """Run the commands of the console blocks in a folder, compare what they print where it is shown; how many ran."""
    commands = console_commands(page)
    with folder_of(folder), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for command, wanted in commands:
            program, *words = shlex.split(command)
            assert program == "gpuroi", command
            capsys.readouterr()
            code = main(expanded(words, folder))
            printed = capsys.readouterr()
            assert code == 0, f"{page.name}: {command}\n{printed.err}"
            if wanted:
                check_printed(command, wanted, printed.out, f"{page.name}: {command}")
    return len(commands)
