"""What a screening costs on paper, and the tables of the scaling page.

Bytes and operations come from the constants of the code itself; rates from the result files where they are measured,
else from data sheets, which the page says. N people, V voxels, P permutations, Q phenotypes.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.machine import ROOT
from benchmarks.records import machine_text
from gpuroi.distributed.permutations import _MOST_BATCHES, _TASKS_PER_WORKER
from gpuroi.inference.memory import permutation_peak_bytes
from gpuroi.inference.projection import BATCH
from gpuroi.workflows.screen_plan import ScreenPlan, plan_screen

__all__ = [
    "CpuRates",
    "Machine",
    "Problem",
    "cpu_rates",
    "draw_scaling",
    "machines",
    "newest",
    "seconds",
    "tables",
    "with_scaling",
]

_RESULTS = ROOT / "benchmarks" / "results"
_SHAPE = (91, 109, 91)
_PLENTY = 10**15  # bytes of memory: nothing has to lie on disk
_SMALL_MEMORY = 16 * 10**9
_COUNT_BYTES = 8  # int64 an element, of every share of the permutations
_MADE_BY = {
    "scaling": "benchmarks.scaling",
    "workers": "benchmarks.workers",
    "large-store": "benchmarks.large_store",
    "screening": "benchmarks.screening",
}
_STEPS = {"read": "read", "products": "products", "maps": "clusters, TFCE", "sent": "send"}


@dataclass(frozen=True)
class Problem:
    """A screening: one contrast of group and age, with voxels, clusters and TFCE.

    Attributes
    ----------
    subjects, voxels, permutations : int
    products : int
        Inner products of a rearrangement at a voxel: effect and nuisance, without the constant.
    itemsize : int
        Bytes of a value, as stored.
    """

    subjects: int
    voxels: int
    permutations: int
    products: int = 2
    itemsize: int = 4

    @property
    def map_bytes(self) -> int:
        """Of all maps."""
        return self.itemsize * self.subjects * self.voxels

    @property
    def product_flops(self) -> int:
        """A multiplication and an addition for each person."""
        return 2 * self.products * self.subjects * self.voxels * self.permutations

    @property
    def passed_bytes(self) -> int:
        """Residuals that pass through the processor: all of them for each batch."""
        return self.map_bytes * math.ceil(self.permutations / BATCH)

    def plan(self, memory: int = _PLENTY) -> ScreenPlan:
        """As `--dry-run` says it, without the time."""
        return plan_screen(
            self.subjects,
            self.voxels,
            shape=_SHAPE,
            n_products=self.products,
            n_permutations=self.permutations,
            cluster=True,
            tfce=True,
            from_store=True,
            device="cpu",
            memory_limit=memory,
            n_jobs=1,
            timed=False,
        )

    def tasks(self, workers: int) -> int:
        """Of Dask, for the permutations."""
        batches = self.permutations // (BATCH * _TASKS_PER_WORKER * workers)
        return math.ceil(self.permutations / (BATCH * min(_MOST_BATCHES, max(1, batches))))

    def sent_bytes(self, workers: int) -> int:
        """Counts of every task, and the maxima of t, size, mass and TFCE of every permutation."""
        return _COUNT_BYTES * (self.tasks(workers) * self.voxels + 4 * self.permutations)


@dataclass(frozen=True)
class Machine:
    """Rates of what computes; of one, where there are several.

    Attributes
    ----------
    name : str
    devices : int
        That share the permutations.
    readers : int
        That read all maps at the same time, each at `read_bytes_per_s`.
    read_bytes_per_s, product_flops, sent_bytes_per_s : float
    pass_bytes_per_s : float
        Of residuals to the processor; infinite where the rate of products counts it in.
    map_voxels_per_s : float
        Voxels of rearranged maps that clusters and TFCE are found in.
    spread : bool
        Over workers, which send what they have counted.
    """

    name: str
    devices: int
    readers: int
    read_bytes_per_s: float
    product_flops: float
    pass_bytes_per_s: float
    map_voxels_per_s: float
    sent_bytes_per_s: float = math.inf
    spread: bool = False


@dataclass(frozen=True)
class CpuRates:
    """What one core does in a second.

    Attributes
    ----------
    product_flops, map_voxels_per_s : float
        As those of a `Machine`.
    source : str
        Of these numbers, in words.
    """

    product_flops: float
    map_voxels_per_s: float
    source: str


def seconds(problem: Problem, machine: Machine) -> dict[str, float]:
    """Return the seconds of each step.

    The model is fitted while maps are read; products and their operands overlap, so that the slower of both counts.
    """
    shares = machine.devices
    passes = 1 / machine.readers + 1  # the model, which readers share; the residuals, which each of them keeps
    product = problem.product_flops / machine.product_flops
    passing = problem.passed_bytes / machine.pass_bytes_per_s
    maps = problem.permutations * problem.voxels / machine.map_voxels_per_s
    return {
        "read": passes * problem.map_bytes / machine.read_bytes_per_s,
        "products": max(product, passing) / shares,
        "maps": maps / shares,
        "sent": problem.sent_bytes(shares) / machine.sent_bytes_per_s if machine.spread else 0.0,
    }


def cpu_rates(results: Path = _RESULTS) -> CpuRates:
    """Return the rates of one core, from the newest scaling record; without one, from that of permutations."""
    found = newest("scaling", results)
    if found is not None:
        file, record = found
        threads, statistics = record["machine"]["threads"], record["statistics"]
        max_t, tfce = statistics["max-T"]["model"], statistics["TFCE"]["model"]
        per_product = max(max_t["e"], 1e-15)
        return CpuRates(4 / (per_product * threads), 1 / (threads * max(tfce["d"], 1e-15)), _link(file))
    file = max(results.glob("cpu-full-permutation-2*.json"))
    record = json.loads(file.read_text(encoding="utf-8"))
    cases = {case["name"]: case for case in record["cases"]}
    (n, v), threads = cases["permutation_max_t"]["input"]["shape"][0], record["machine"]["threads"]
    max_t, everything = (
        1e-3 * cases[name]["implementations"]["gpuroi-cpu"]["times"]["median_ms"]
        for name in ("permutation_max_t", "permutation_all")
    )
    return CpuRates(4 * n * v / (max_t * threads), v / ((everything - max_t) * threads), _link(file))


def machines(rates: CpuRates) -> list[Machine]:
    """Return what the page predicts for."""
    # 4.3 TB/s is a measured copy, 67 TFLOP/s the data sheet's; 0.7 and 3.3 s for 10 000 maps of 228 483 voxels are
    # taken from counts of operations and memory accesses.
    gpu = Machine("one H200", 1, 1, 2e9, 0.7 * 67e12, 4.3e12, 228_483 * 10_000 / 3.3)
    cores = 32
    products, maps = cores * rates.product_flops, cores * rates.map_voxels_per_s
    box = Machine(f"one machine of {cores} cores", 1, 1, 2e9, products, math.inf, maps)
    nodes = replace(
        box,
        name=f"50 nodes of {cores} cores",
        devices=50,
        readers=50,
        read_bytes_per_s=1e9,
        sent_bytes_per_s=1e9,
        spread=True,
    )
    return [gpu, replace(gpu, name="8 GPUs of this kind", devices=8), box, nodes]


def tables(results: Path = _RESULTS) -> dict[str, str]:
    """Return what stands in place of each marker of the page."""
    made = {
        "cost": _cost_table(),
        "workers": _workers_table(),
        "phenotypes": _phenotypes_table(),
        "rates": _rates_table(cpu_rates(results)),
        "predictions": _predictions(cpu_rates(results)),
        "sizes": _measured_sizes(results),
        "machines": _measured_workers(results),
        "store": _measured_store(results),
        "screening": _measured_screening(results),
    }
    return {name: "\n".join(_unbroken(line) for line in lines) for name, lines in made.items()}


def newest(kind: str, results: Path = _RESULTS) -> tuple[Path, dict[str, Any]] | None:
    """Return the last record of a kind, and its file; None where there is none."""
    found = None
    for file in results.glob("*.json"):
        record = json.loads(file.read_text(encoding="utf-8"))
        if record["kind"] == kind and (found is None or record["date"] > found[1]["date"]):
            found = file, record
    return found


def draw_scaling(target: Path, results: Path = _RESULTS) -> bool:
    """Draw the picture of the newest scaling record; False where there is none."""
    from benchmarks.scaling import draw

    found = newest("scaling", results)
    if found is not None:
        draw(found[1], target)
    return found is not None


def with_scaling(page: str, picture: Path, results: Path = _RESULTS) -> str:
    """Put tables and the picture, which is drawn into a file below `docs/`, in place of their markers."""
    for name, table in tables(results).items():
        page = page.replace(f"<!-- scaling: {name} -->", table)
    if not draw_scaling(picture, results):
        return page
    alternative = "Seconds over people, voxels and permutations on logarithmic axes: straight lines"
    shown = f"![{alternative}]({picture.relative_to(ROOT / 'docs')})"
    return page.replace("<!-- scaling: picture -->", shown)


def _cost_table() -> Iterator[str]:
    yield (
        "| N | maps | read | in memory | on disk, with 16 GB of memory | through the processor | operations | results |"
    )
    yield "|" + "---:|" * 8
    for n in (100, 1000, 10_000, 40_000):
        problem = Problem(n, 230_000, 10_000)
        whole, small = problem.plan(), problem.plan(_SMALL_MEMORY)
        cells = [
            _bytes(problem.map_bytes),
            _bytes(2 * problem.map_bytes),
            _bytes(whole.host_bytes),
            _bytes(small.disk_bytes) if small.disk_bytes else "-",
            _bytes(problem.passed_bytes),
            _in_units(problem.product_flops, "FLOP"),
            _bytes(whole.output_bytes),
        ]
        yield f"| {_spaced(n)} | " + " | ".join(cells) + " |"


def _workers_table() -> Iterator[str]:
    problem = Problem(40_000, 230_000, 10_000)
    yield "| workers | tasks | read by all | kept by each | sent back |"
    yield "|" + "---:|" * 5
    for workers in (1, 2, 8, 50):
        read = _bytes(problem.map_bytes * (1 + workers))
        kept = _bytes(permutation_peak_bytes(problem.subjects, problem.voxels, needs_maps=True, threads=1))
        yield f"| {workers} | {problem.tasks(workers)} | {read} | {kept} | {_bytes(problem.sent_bytes(workers))} |"


def _phenotypes_table() -> Iterator[str]:
    yield "| N | Q | P | maps | operations |"
    yield "|" + "---:|" * 5
    for n, q, p in ((1000, 500, 0), (1000, 500, 1000), (40_000, 500, 0), (40_000, 5000, 0)):
        flops = 2 * n * 230_000 * q * max(1, p)
        yield f"| {_spaced(n)} | {q} | {p} | {_bytes(4 * n * 230_000)} | {_in_units(flops, 'FLOP')} |"
    found = newest_case("phenotypes")
    if found is not None:
        file, record, case = found
        n, v = case["input"]["shape"][0]
        measured = 1e-3 * case["implementations"]["gpuroi-cpu"]["times"]["median_ms"]
        yield ""
        yield (
            f"Measured: {case['input']['phenotypes']} phenotypes, {_spaced(n)} people, {_spaced(v)} voxels, without "
            f"permutations: {measured:.1f} s on {_where(record)}. Source: {_link(file)}."
        )


def newest_case(name: str, results: Path = _RESULTS) -> tuple[Path, dict[str, Any], dict[str, Any]] | None:
    """Return the last benchmark of this name, with its record and file."""
    found = None
    for file in results.glob("*.json"):
        record = json.loads(file.read_text(encoding="utf-8"))
        for case in record.get("cases", []):
            ours = case.get("implementations", {}).get("gpuroi-cpu", {})
            if case.get("name") == name and "times" in ours and (found is None or record["date"] > found[1]["date"]):
                found = file, record, case
    return found


def _rates_table(rates: CpuRates) -> Iterator[str]:
    yield "| | reads | products | residuals to the processor | clusters, TFCE | sends |"
    yield "|---|" + "---:|" * 5
    for machine in machines(rates):
        cells = [
            f"{_bytes(machine.read_bytes_per_s)}/s{' in all' * (machine.readers < machine.devices)}",
            f"{_in_units(machine.product_flops, 'FLOP')}/s",
            f"{_bytes(machine.pass_bytes_per_s)}/s" if math.isfinite(machine.pass_bytes_per_s) else "-",
            f"{machine.map_voxels_per_s / 1e6:.0f} M voxels/s",
            f"{_bytes(machine.sent_bytes_per_s)}/s" if machine.spread else "-",
        ]
        name = machine.name if machine.devices == 1 else f"{machine.name}, each"
        yield f"| {name} | " + " | ".join(cells) + " |"
    yield ""
    yield (
        f"One core: {_in_units(rates.product_flops, 'FLOP')}/s in products, {rates.map_voxels_per_s / 1e6:.0f} million "
        f"voxels a second in clusters and TFCE, as measured in {rates.source}."
    )


def _predictions(rates: CpuRates) -> Iterator[str]:
    problem = Problem(40_000, 230_000, 10_000)
    yield "| | " + " | ".join(_STEPS.values()) + " | together |"
    yield "|---|" + "---:|" * (len(_STEPS) + 1)
    for machine in machines(rates):
        took = seconds(problem, machine)
        cells = [_time(took[step]) if took[step] else "-" for step in _STEPS]
        yield f"| {machine.name} | " + " | ".join(cells) + f" | **{_time(sum(took.values()))}** |"


def _measured_sizes(results: Path) -> Iterator[str]:
    found = newest("scaling", results)
    if found is None:
        yield _missing("scaling")
        return
    file, record = found
    yield "| | N | V | P | model off by at most | 40 000 x 230 000 x 10 000 |"
    yield "|---|" + "---:|" * 5
    for name, fitted in record["statistics"].items():
        slopes = [f"{fitted['exponents'][axis]:.2f}" if axis in fitted["exponents"] else "-" for axis in _AXES]
        off, target = fitted["model_off_by_at_most"], _by_model(fitted["model"], name)
        yield f"| {name} | " + " | ".join(slopes) + f" | {off:.0%} | {_time(target)} |"
    yield ""
    yield f"Measured on {_where(record)}; {record['date'][:10]}, by `{record['command']}`. Source: {_link(file)}."


_AXES = ("subjects", "voxels", "permutations")


def _by_model(model: dict[str, float], name: str) -> float:
    """Seconds of the problem on the machine that was measured: a + b V + c N V + P V (d + e N)."""
    n, v, p = 40_000, 230_000, 0 if name == "glm" else 10_000
    return model["a"] + model["b"] * v + model["c"] * n * v + p * v * (model["d"] + model["e"] * n)


def _measured_workers(results: Path) -> Iterator[str]:
    found = newest("workers", results)
    if found is None:
        yield _missing("workers")
        return
    file, record = found
    settings = record["settings"]
    yield "| | seconds |"
    yield "|---|---:|"
    for name, took in record["seconds"].items():
        yield f"| {name} | {took['median']:.2f} |"
    yield ""
    yield (
        f"{settings['maps']} maps, {_spaced(settings['voxels'])} voxels, {settings['permutations']} permutations with "
        f"clusters. Two workers are {record['speed_up_of_two_workers']:.2f} times as fast as one, and "
        f"{'all numbers are the same' if record['same_numbers'] else '**numbers differ**'}. On {_where(record)}. "
        f"Source: {_link(file)}."
    )


def _measured_store(results: Path) -> Iterator[str]:
    found = newest("large-store", results)
    if found is None:
        yield _missing("large-store")
        return
    file, record = found
    n, v = record["input"]["shape"]
    yield (
        f"A linear model of {_spaced(n)} x {_spaced(v)} values ({_bytes(record['bytes']['maps'])}) in one pass through "
        f"a packed store: {record['fit']['gb_per_s_of_maps']:.2f} GB of maps a second, {record['share']:.0%} of the "
        f"rate at which its files can be read, with {_bytes(1e6 * record['fit']['peak_mb'])} of memory at the peak "
        f"(imports included). On {_where(record)}; {record['date'][:10]}. Source: {_link(file)}."
    )


def _measured_screening(results: Path) -> Iterator[str]:
    found = newest("screening", results)
    if found is None:
        yield _missing("screening")
        return
    file, record = found
    settings, ours, theirs = record["settings"], record["gpuroi_s"], record["nilearn_s"]
    yield (
        f"`gpuroi screen` of {settings['maps']} compressed maps of {_spaced(settings['voxels'])} voxels, "
        f"{settings['permutations']} permutations with clusters and TFCE, from the command to the folder: "
        f"{ours['command']:.1f} s, with report and figures {ours['with_report_and_figures']:.1f} s. nilearn, "
        f"extrapolated from {theirs['permutations'][1]} permutations: {_time(theirs['extrapolated'])}. "
        f"On {_where(record)}; {record['date'][:10]}. Source: {_link(file)}."
    )


def _unbroken(line: str) -> str:
    """In a row of a table, keep numbers in one piece, and with their units."""
    return re.sub(r"(?<=\d) (?=[\w])", "\N{NO-BREAK SPACE}", line) if line.startswith("|") else line


def _missing(kind: str) -> str:
    return f"*Not measured yet: `python -m {_MADE_BY[kind]}` writes the record that belongs here.*"


def _where(record: dict[str, Any]) -> str:
    return machine_text(record["machine"], cuda=False)


def _link(file: Path) -> str:
    return f"[`{file.name}`](../benchmarks/results/{file.name})"


def _bytes(n: float) -> str:
    return _in_units(n, "B")


def _in_units(n: float, unit: str) -> str:
    """Two digits at least: 94 MB, 1.2 GFLOP."""
    prefixes: Sequence[str] = ("", "k", "M", "G", "T", "P")
    power = min(len(prefixes) - 1, int(math.log10(max(n, 1)) // 3))
    value = n / 1000**power
    return f"{value:.{0 if value >= 10 else 1}f} {prefixes[power]}{unit}"


def _time(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.{0 if seconds >= 10 else 1}f} s"
    count, unit = (seconds / 60, "min") if seconds < 100 * 60 else (seconds / 3600, "h")
    return f"{count:.{0 if count >= 10 else 1}f} {unit}"


def _spaced(number: int) -> str:
    return f"{number:,}".replace(",", " ") if number >= 10_000 else str(number)
