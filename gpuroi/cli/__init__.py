"""The command line: parse, call one workflow, print."""

from __future__ import annotations

from gpuroi.cli.app import main

__all__ = ["main"]
