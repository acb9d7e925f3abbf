"""Options from a TOML file: `--config FILE`, where a command has it; what is typed wins."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpuroi.errors import DataError

if TYPE_CHECKING:
    from cyclopts import App, ArgumentCollection

__all__ = ["options_from_file"]

_EXPECTED = "give the file that an earlier run wrote to logs/"
_LONE_SURROGATE = re.compile(r"\\u[dD][89a-fA-F][0-9a-fA-F]{2}")  # of bytes that are not UTF-8
_LONG_KEY = re.compile(r"(?:[\w\"'-]+[ \t]*\.[ \t]*){40}")


def options_from_file(app: App, commands: tuple[str, ...], arguments: ArgumentCollection) -> None:
    """Fill in the options that were not typed from the file that `--config` names.

    Parameters
    ----------
    app, commands, arguments
        As cyclopts passes them to its `config`.

    Raises
    ------
    DataError
        If there is no such file, or it is no TOML.
    """
    from cyclopts.config import Dict

    given = next((argument for argument in arguments if "--config" in argument.names), None)
    if given is not None and given.tokens:
        path = Path(given.tokens[0].value)
        Dict(_read(path), source=str(path), use_commands_as_keys=False)(app, commands, arguments)


def _read(path: Path) -> dict[str, Any]:
    import tomllib

    from gpuroi.images.text_files import read_text

    text = read_text(path.expanduser(), name=str(path), expected=_EXPECTED)
    if _LONG_KEY.search(text):  # each part costs tomllib more than the one before it
        raise DataError(f"{path}: a key of more than 40 parts", _EXPECTED)
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        if _LONE_SURROGATE.search(text):
            raise DataError(
                f"{path}: holds a name that is not UTF-8, which TOML does not have: {error}",
                "rename that file, or take the line out and give it as an option",
            ) from error
        raise DataError(f"{path}: is no TOML: {error}", _EXPECTED) from error
