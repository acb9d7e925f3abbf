"""Every reader under test."""

from __future__ import annotations

from . import images, runs, stores, tables, texts

__all__ = ["TARGETS"]

TARGETS = {
    target.name: target for target in (*images.TARGETS, *tables.TARGETS, *texts.TARGETS, *stores.TARGETS, *runs.TARGETS)
}
