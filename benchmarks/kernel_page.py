"""Write the tables of docs/kernels.md: what every kernel needs, what every operation moves, and predicted times.

    python -m benchmarks.kernel_page [--check]

Needs a CUDA compiler (pip install nvidia-cuda-nvrtc nvidia-cuda-nvrtc-cu12), no device. `--check`: exit 1 if the page
differs from what the sources give.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.machine import ROOT
from benchmarks.occupancy import ARCHITECTURES, occupancy
from benchmarks.traffic import COPY_BYTES_PER_S, OPERATIONS
from gpuroi.backends.cuda_kernels import KERNEL_VARIANTS

sys.path.insert(0, str(ROOT / "tests"))  # the compiler's front end belongs to the rig

__all__ = ["THREADS", "main", "page", "resource_table", "resources", "traffic_table"]

PAGE = ROOT / "docs" / "kernels.md"
MARKS = {name: (f"<!-- {name}: begin -->", f"<!-- {name}: end -->") for name in ("resources", "traffic")}
THREADS = {"tfce_grow": 64, "tfce_sweep": 64, "label_sums": 128, "percentile": 512}
"""Of a block, where they are not the usual 256."""


def main(words: Sequence[str] | None = None) -> int:
    """Command line; 1 if the page is not what the sources give."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.kernel_page", description=__doc__.partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if the page would change")
    parser.add_argument("--page", type=Path, default=PAGE)
    options = parser.parse_args(words)
    before = options.page.read_text(encoding="utf-8")
    after = page(before, resource_table(tuple(ARCHITECTURES)), traffic_table())
    if options.check:
        return int(before != after)
    options.page.write_text(after, encoding="utf-8")
    print(f"written: {options.page}")
    return 0


def page(text: str, resources_: str, traffic: str) -> str:
    """Put the tables between their marks."""
    for (begin, end), table in zip(MARKS.values(), (resources_, traffic), strict=True):
        head, _, rest = text.partition(begin)
        _, _, tail = rest.partition(end)
        text = f"{head}{begin}\n\n{table}\n{end}{tail}"
    return text


def resources(architecture: int) -> dict[tuple[str, str], Any]:
    """What the compiler says of each kernel: (name, type of values) -> `Resources`."""
    from rig.nvrtc import compile_cuda

    from gpuroi.backends.cuda_kernels import kernel_source

    found = {}
    for stem, variants in KERNEL_VARIANTS.items():
        for options in variants:
            real = next((o.removeprefix("-DREAL=") for o in options if o.startswith("-DREAL=")), "")
            for name, needs in compile_cuda(kernel_source(stem), architecture, options).kernels.items():
                found[name, real] = needs
    return found


def resource_table(architectures: Sequence[int]) -> str:
    """Registers and occupancy of every kernel on every architecture."""
    from rig.nvrtc import versions

    found = {architecture: resources(architecture) for architecture in architectures}
    return "\n".join([*_resource_lines(found), "", _compilers(versions())])


def traffic_table() -> str:
    """Bytes, predicted time on an H200 and goal of every operation."""
    return "\n".join(_traffic_lines())


def _resource_lines(found: dict[int, dict[tuple[str, str], Any]]) -> Iterator[str]:
    yield "| kernel | values | threads | shared | " + " | ".join(f"sm_{a}" for a in found) + " |"
    yield "|---|---|--:|--:|" + "--:|" * len(found)
    for name, real in sorted(next(iter(found.values()))):
        needs = {a: kernels[name, real] for a, kernels in found.items()}
        threads = THREADS.get(name, 256)
        shared = max(each.shared_bytes for each in needs.values())
        cells = (
            f"{each.registers} / {round(100 * occupancy(a, threads, each.registers, each.shared_bytes))} %"
            + (" **spills**" if each.spills else "")
            for a, each in needs.items()
        )
        yield f"| `{name}` | {real or '-'} | {threads} | {shared or '-'} | {' | '.join(cells)} |"


def _compilers(versions: dict[str, tuple[int, int]]) -> str:
    names = ", ".join(f"{major}.{minor}" for major, minor in sorted(versions.values(), reverse=True))
    return f"Compiled by NVRTC {names}, with the options that CuPy gives.\n"


def _traffic_lines() -> Iterator[str]:
    yield "| operation | an element is a | bytes an element | least | of the roofline | prediction | goal | counted |"
    yield "|---|---|--:|--:|--:|--:|--:|---|"
    for each in OPERATIONS:
        goal = f"{each.goal_ms:g} ms" if each.goal_ms else "-"
        yield (
            f"| {each.name} | {each.element} | {each.bytes_each:.3g} | {each.least_each:.3g} "
            f"| {100 * each.of_roofline:.0f} % | {each.predicted_ms:.3g} ms | {goal} | {each.counted} |"
        )
    yield ""
    yield f"Predictions, not measurements: bytes over {COPY_BYTES_PER_S / 1e12:g} TB/s, the measured rate of a copy.\n"


if __name__ == "__main__":
    sys.exit(main())
