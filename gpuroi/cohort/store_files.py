"""Files of a store on disk: complete under their name, or not there; one writer at a time."""

from __future__ import annotations

import json
import logging
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gpuroi.errors import OutputError
from gpuroi.images.write import as_output_error

__all__ = [
    "check_target",
    "checked_target",
    "only_writer",
    "put_shards",
    "replace_attributes",
    "staged_store",
]

_log = logging.getLogger("gpuroi")


def checked_target(out: str | os.PathLike[str], overwrite: bool) -> Path:
    """Return the path of a new store; raise `OutputError` if it cannot be there."""
    target = Path(out).expanduser().resolve()
    if target.suffix != ".zarr":
        raise OutputError(f"{out}: packed stores are zarr", "name it .zarr")
    check_target(target, overwrite)
    return target


def check_target(target: Path, overwrite: bool) -> None:
    """Raise `OutputError` if something is there that may not be replaced."""
    if not target.exists():
        return
    if not overwrite:
        raise OutputError(f"{target}: exists already", "add to it with --append, or replace it with --overwrite")
    try:
        is_ours = "gpuroi_version" in json.loads((target / "zarr.json").read_bytes())["attributes"]
    except (OSError, ValueError, KeyError, TypeError):
        is_ours = target.is_dir() and not any(target.iterdir())
    if not is_ours:
        raise OutputError(f"{target}: is no store of gpuroi; it is left alone", "choose another name")


@contextmanager
def staged_store(target: Path) -> Iterator[Path]:
    """Fill a folder beside the target, which takes its place when the block has ended without an error."""
    staged, old = (target.with_name(f".{what}-{secrets.token_hex(4)}-{target.name}") for what in ("pack", "old"))
    with as_output_error(target):
        staged.mkdir(parents=True)
    try:
        yield staged
        with as_output_error(target):
            if target.exists():
                target.rename(old)
            try:
                staged.rename(target)
            except BaseException:
                if old.exists():
                    old.rename(target)
                raise
    finally:
        shutil.rmtree(staged, ignore_errors=True)  # no longer there if all went well
        if target.exists():
            shutil.rmtree(old, ignore_errors=True)


@contextmanager
def only_writer(folder: Path) -> Iterator[None]:
    """Hold a lock on the store, which the system takes back whatever happens."""
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    file = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise OutputError(f"{folder}: somebody else is adding to it", "wait until they are done") from error
        except OSError:
            _log.warning("%s: its file system has no locks: let nobody else add to it now", folder)
        yield
    finally:
        os.close(file)


def put_shards(new: Path, old: Path) -> None:
    """Rename shards into the store. Those that replace one hold its rows too, so that every step leaves a whole store.

    The array's own header, with the new number of rows, comes last.
    """
    for shard in sorted((new / "c").glob("*/*")):
        _sync(shard)
        place = old / shard.relative_to(new)
        place.parent.mkdir(parents=True, exist_ok=True)
        shard.replace(place)
    _sync(new / "zarr.json")
    (new / "zarr.json").replace(old / "zarr.json")


def replace_attributes(folder: Path, attributes: dict[str, Any]) -> None:
    """Replace the list of participants in one step: with it the new rows count."""
    header = json.loads((folder / "zarr.json").read_text(encoding="utf-8"))
    header["attributes"] = attributes
    staged = folder / f".zarr-{secrets.token_hex(4)}.json"
    try:
        staged.write_text(json.dumps(header, indent=2), encoding="utf-8")
        _sync(staged)
        staged.replace(folder / "zarr.json")
    finally:
        staged.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    file = os.open(path, os.O_RDWR)
    try:
        os.fsync(file)
    finally:
        os.close(file)
