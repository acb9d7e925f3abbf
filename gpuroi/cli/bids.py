"""`gpuroi-bids`: the screening of a BIDS derivative, called as BIDS Apps are."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from gpuroi.cli.errors import asked_to_debug, report

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cyclopts import App

__all__ = ["build_bids_app", "main"]

_HELP = "Group analysis of a BIDS derivative: each participant's map is found by its name, the rest is gpuroi screen."


def main(argv: Sequence[str] | None = None) -> int:
    """Run `gpuroi-bids`.

    Parameters
    ----------
    argv : sequence of str, optional
        Arguments after the program's name; those of the process by default.

    Returns
    -------
    int
        Exit code, as of `gpuroi`.
    """
    from gpuroi.cli.app import main as gpuroi

    debug, words = asked_to_debug(list(sys.argv[1:] if argv is None else argv))
    try:
        screening = build_bids_app()(words, print_error=False, exit_on_error=False)
    except (Exception, KeyboardInterrupt, SystemExit) as error:
        return report(error, debug=debug)
    if not isinstance(screening, list):  # --help, --version
        return 0
    return gpuroi([*screening, *(["--debug"] if debug else [])])


def build_bids_app() -> App:
    """Return the application; it writes the table and returns the words of the `gpuroi` command that follows."""
    from cyclopts import App

    from gpuroi import __version__

    app = App(
        name="gpuroi-bids",
        help=_HELP,
        help_format="plaintext",
        version=__version__,
        result_action="return_value",
        suppress_keyboard_interrupt=False,
        default_parameter=Parameter(negative=()),
    )
    app.default(group_table)
    return app


def group_table(
    bids_dir: Path,
    output_dir: Path,
    level: Literal["group", "participant"],
    /,
    *screen_options: Annotated[str, Parameter(allow_leading_hyphen=True)],
    participant_label: Annotated[list[str] | None, Parameter(consume_multiple=True)] = None,
    participants: Path | None = None,
    suffix: str = "statmap",
    session_label: str | None = None,
    task_label: str | None = None,
    contrast_label: str | None = None,
    stat: str | None = None,
    space: str | None = None,
    desc: str | None = None,
    entity: Annotated[list[str] | None, Parameter(consume_multiple=True)] = None,
    map_pattern: str | None = None,
    missing_maps: Literal["error", "drop"] = "error",
    analysis: str = "group",
) -> list[str]:
    """Find the map of each participant by its name, write the table, and screen it.

    gpuroi-bids derivatives/glm out group --contrast-label faces --stat effect --formula 'map ~ age' --mask mask.nii.gz

    Every other option is one of gpuroi screen: --formula, --contrast, --mask, --n-perm, --tfce, --dry-run, ...

    Parameters
    ----------
    bids_dir
        BIDS derivative with a folder sub-<label> for each participant.
    output_dir
        Gets <analysis>_participants.tsv and the folder <analysis>.
    level
        group. There is no participant level here: gpuroi roi finds regions in one participant's run.
    screen_options
        Options of gpuroi screen.
    participant_label
        Who takes part, with or without sub-: 01 02. Default: everybody in the table.
    participants
        The table, if it is not participants.tsv of the derivative.
    suffix
        Last part of the names of the maps.
    session_label
        What follows ses- in the names of the maps.
    task_label
        What follows task-.
    contrast_label
        What follows contrast-.
    stat
        What follows stat-: effect, t, z.
    space
        What follows space-: MNI152NLin2009cAsym.
    desc
        What follows desc-.
    entity
        Further parts of the names, as run-1 dir-AP.
    map_pattern
        Where the maps lie, relative to the dataset: 'sub-{participant}/**/*_zmap.nii.gz'.
    missing_maps
        Participants without a map: an error, or leave them out, say so and list them in <analysis>_without_map.tsv.
    analysis
        Name of the results in the output folder.

    Returns
    -------
    list of str
        Words of the command that follows.
    """
    from gpuroi.errors import UsageError
    from gpuroi.workflows.bids_table import bids_table

    if level == "participant":
        raise UsageError(
            "gpuroi-bids has the group level alone",
            "regions in the run of one participant: gpuroi roi; maps of the first level come from fitlins or nilearn",
        )
    if Path(analysis).name != analysis or analysis in ("", ".", ".."):
        raise UsageError(f'the analysis is called "{analysis}"', "give a name for a folder, without slashes")
    named = {"ses": session_label, "task": task_label, "contrast": contrast_label, "stat": stat}
    named |= {"space": space, "desc": desc, **_pairs(entity or [])}
    found = bids_table(
        bids_dir,
        participants=participants,
        labels=participant_label or [],
        suffix=suffix,
        entities={key: value for key, value in named.items() if value is not None},
        pattern=map_pattern,
        missing=missing_maps,
    )
    overwrite = "--overwrite" in screen_options
    table = found.save(output_dir / f"{analysis}_participants.tsv", overwrite=overwrite)
    _list_without_map(found.without_map, output_dir / f"{analysis}_without_map.tsv")
    return ["screen", str(table), *screen_options, "--out", str(output_dir / analysis)]


def _pairs(entities: Sequence[str]) -> dict[str, str]:
    from gpuroi.errors import UsageError

    pairs = [text.partition("-") for text in entities]
    for text, (key, _, value) in zip(entities, pairs, strict=True):
        if not (key and value):
            raise UsageError(f'"{text}" is no part of a BIDS name', "write it like run-1")
    return {key: value for key, _, value in pairs}


def _list_without_map(ids: Sequence[str], path: Path) -> None:
    """Say who is left out, on stderr and in a table."""
    import pandas as pd

    from gpuroi.images.write import write_tsv

    if not ids:
        return
    write_tsv(path, pd.DataFrame({"participant_id": ids, "reason": "no map"}), overwrite=True)
    print(f"gpuroi: {len(ids)} participants have no map and are left out: {path}", file=sys.stderr)
