"""The faults: each is done to screenings again and again, and says of every one what became of it."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from .compare import beside, other_files, other_numbers, sha256_of, spread, wait_for
from .nursery import Ended
from .screening import Bench, content, gpuroi_in_new_process, provenance

__all__ = ["FAULTS", "STAGES", "Happened"]

STAGES = {
    "reading": ("start", "table", "design", "headers", "plan", "hash", "maps"),
    "glm": ("glm",),
    "permutations": ("permutations",),
    "clusters": ("clusters", "means"),
    "writing": ("writing", "tidying"),
}
_SHORT = ("--device", "cpu", "--n-perm", "100")


@dataclass(frozen=True)
class Happened:
    """One fault, and what became of the screening.

    Attributes
    ----------
    fault, case : str
    code : int
        Exit code.
    stage : str
        What the run was at when it ended.
    wrong : str
        What must not be; empty if all is well.
    """

    fault: str
    case: str
    code: int
    stage: str
    wrong: str

    def as_dict(self) -> dict[str, Any]:
        """Return it ready for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Kind:
    """A kind of screening: more options, and whether maps and residuals lie in files."""

    options: tuple[str, ...] = ()
    on_disk: bool = False

    @property
    def words(self) -> tuple[str, ...]:
        """Options for the command line."""
        return ("--device", "cpu", *self.options)

    def __str__(self) -> str:
        return " ".join([*self.options, *(["on disk"] if self.on_disk else [])]) or "in memory"


# ------------------------------------------------------------------ killed


def kills(bench: Bench, n: int) -> Iterator[Happened]:
    """Kill runs at random moments of every stage, with both signals, then run each again to its end."""
    kinds = (Kind(), Kind(on_disk=True), Kind(("--tfce",)))
    wholes = [bench.whole(*kind.words, on_disk=kind.on_disk) for kind in kinds]
    assert wholes[0][0] == wholes[1][0]
    moments = (
        "permutations",
        "writing",
        "maps",
        "glm",
        "hash",
        "permutations",
        "clusters",
        "table",
        "writing",
        "means",
    )
    for k in range(n):
        stage, which = moments[k % len(moments)], k % len(kinds)
        signal = ("SIGKILL", "SIGTERM")[(k + k // len(moments)) % 2]
        expected, ended = wholes[which]
        after = bench.random.uniform(0, ended.durations[stage])
        yield _killed(bench, kinds[which], expected, {"stage": stage, "after": after, "signal": signal}, f"{k}")


def kills_over_results(bench: Bench, n: int) -> Iterator[Happened]:
    """Kill runs while they replace earlier results: the old or the new ones are there, whole."""
    old, _ = bench.whole(*_SHORT)
    new, ended = bench.whole(*_SHORT, "--seed", "5")
    for k in range(n):
        out = bench.place()
        bench.nursery.run(bench.words(out, *_SHORT))
        signal = ("SIGKILL", "SIGTERM")[k % 2]
        kill = {
            "stage": "writing",
            "after": bench.random.uniform(0.5, 1.1) * ended.durations["writing"],
            "signal": signal,
        }
        words = bench.words(out, *_SHORT, "--seed", "5", "--overwrite")
        killed = bench.nursery.run(words, kill=kill)
        wrong = _wrong_kill(killed, signal)
        kept = sorted(out.parent.glob(".old-*-out"))  # killed between two renames; the next run puts it back
        there = content(out if out.exists() else kept[0]) if out.exists() or kept else {}
        if there not in (old, new):
            wrong = wrong or "neither the old nor the new results are whole"
        again = bench.nursery.run(words)
        if again.code != 0 or content(out) != new or beside(out) != ["out"]:
            wrong = wrong or f"not the same at the end: {again.code}, {beside(out)}, {again.said[-300:]}"
        yield Happened("killed over results", f"{signal} {k}", killed.code, killed.stage, wrong)
        bench.clear(out)


def _killed(bench: Bench, kind: Kind, expected: dict[str, bytes], kill: dict[str, Any], name: str) -> Happened:
    out = bench.place()
    words = bench.words(out, *kind.words)
    killed = bench.nursery.run(words, kill=kill, on_disk=kind.on_disk)
    wrong = _wrong_kill(killed, kill["signal"])
    if out.exists() and content(out) != expected:
        wrong = wrong or "half of the results are there"
    if killed.code != 0:
        again = bench.nursery.run(words, on_disk=kind.on_disk)
        wrong = wrong or ("" if again.code == 0 else f"run again: {again.code}: {again.said[-300:]}")
    if not wrong:
        wrong = other_files(content(out), expected) or ("" if beside(out) == ["out"] else f"left: {beside(out)}")
    bench.clear(out)
    case = f"{kill['signal']} {name}, {kill['after']:.3f} s into {kill['stage']}, {kind}"
    return Happened("killed", case, killed.code, killed.stage, wrong)


def _wrong_kill(killed: Ended, signal: str) -> str:
    expected = {"SIGKILL": (-9, 0), "SIGTERM": (75, -15, 0)}[signal]  # 0: it was done before
    if "Traceback" in killed.said:
        return f"exit code {killed.code}: {killed.said.partition('Traceback')[2][:800]}"
    return "" if killed.code in expected else f"exit code {killed.code}: {killed.said[-500:]}"


# ------------------------------------------------------------------ no room, no right to write


def full_disk(bench: Bench, n: int) -> Iterator[Happened]:
    """Let the disk be full at every file that a run writes; old results, or none, stay."""
    cases: dict[str, tuple[Kind, int]] = {}
    for kind in (Kind(("--n-perm", "100")), Kind(("--n-perm", "100"), on_disk=True)):
        expected, ended = bench.whole(*kind.words, on_disk=kind.on_disk)
        for name in ended.files:
            cases.setdefault(name, (kind, len(expected.get(name.removeprefix("out/"), b"")) // 2))
    assert any("scratch" in name for name in cases)
    for name in spread(list(cases), n):
        for over in (False, True) if "scratch" in name else (False,):
            yield _on_full_disk(bench, cases[name][0], name, cases[name][1], over)


def full_disk_of_pictures(bench: Bench, n: int) -> Iterator[Happened]:
    """Do the same with the pictures and the report."""
    kind = Kind(("--n-perm", "0", "--figures"))
    _, ended = bench.whole(*kind.words)
    names = [name for name in dict.fromkeys(ended.files) if "/figures/" in name or name.endswith((".html", ".svg"))]
    for name in spread(names, n):
        yield _on_full_disk(bench, kind, name, 100, False)


def _on_full_disk(bench: Bench, kind: Kind, name: str, room: int, over: bool) -> Happened:
    out, fault = bench.place(), "full disk of pictures" if "--figures" in kind.options else "full disk"
    if over:
        bench.nursery.run(bench.words(out, "--n-perm", "0", "--device", "cpu"))
    before = content(out) if over else {}
    words = bench.words(out, *kind.words, *(["--overwrite", "--seed", "1"] if over else []))
    failed = bench.nursery.run(words, full={"file": name, "bytes": room}, on_disk=kind.on_disk)
    wrong = ""
    if name not in failed.files and failed.code == 0:
        bench.clear(out)  # states are written now and then: this run has not written that one
        return Happened(fault, f"{name}: not written", 0, failed.stage, "")
    if failed.code != 73 or "cannot be written" not in failed.said or "Traceback" in failed.said:
        wrong = f"exit code {failed.code}: {failed.said[-600:]}"
    elif (content(out) if out.exists() else {}) != before:
        wrong = "the results that were there are not whole"
    left = [one for one in beside(out) if one not in ("out", ".out.gpuroi-run")]
    wrong = wrong or (f"left: {left}" if left else "")
    bench.clear(out)
    return Happened(fault, f"{name}, {room} bytes{', over results' if over else ''}", failed.code, failed.stage, wrong)


def small_disk(bench: Bench, n: int) -> Iterator[Happened]:
    """Write to a file system in memory that is too small; needs the right to mount one."""
    expected, _ = bench.whole(*_SHORT)
    size = sum(map(len, expected.values()))
    for share in np.linspace(0.05, 0.95, n):
        out = bench.place()
        words = gpuroi_in_new_process(bench.words(out, *_SHORT))
        script = 'mount -t tmpfs -o size="$0" none "$1" && shift && { "$@"; echo "code $?"; ls -A "$OLDPWD"; }'
        ran = subprocess.run(
            [
                "unshare",
                "-rm",
                "sh",
                "-c",
                f'cd "$1" && cd / && {script}',
                str(int(share * size)),
                str(out.parent),
                *words,
            ],
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        code = re.search(r"^code (\d+)\n(.*)", ran.stdout, re.MULTILINE | re.DOTALL)
        if code is None:
            bench.clear(out)
            return  # no such right here
        left = [name for name in code[2].split() if name != ".out.gpuroi-run"]
        fine = code[1] == "73" and "Traceback" not in ran.stderr and not left
        wrong = "" if fine else f"left: {left}: {ran.stderr[-500:]}"
        yield Happened("small disk", f"{share:.0%} of what is written", int(code[1]), "", wrong)
        bench.clear(out)


def read_only(bench: Bench, n: int) -> Iterator[Happened]:
    """Write where nobody may."""
    del n
    out = bench.place()
    for path in (bench.folder, *bench.folder.parents, bench.cohort, *bench.cohort.rglob("*")):
        if path.stat().st_uid == os.getuid() and path.is_relative_to(bench.folder):
            path.chmod(0o755)
    out.parent.chmod(0o555)
    as_nobody = {"user": 65534} if os.getuid() == 0 else {}
    for case, target in (("folder without the right to write", out), ("system folder", Path("/sys/kernel/out"))):
        failed = bench.nursery.run(bench.words(target, "--device", "cpu"), **as_nobody)
        fine = failed.code == 73 and str(target.parent) in failed.said and "Traceback" not in failed.said
        wrong = "" if fine and not list(out.parent.iterdir()) else f"exit code {failed.code}: {failed.said[-400:]}"
        yield Happened("read-only", case, failed.code, failed.stage, wrong)
    out.parent.chmod(0o755)
    bench.clear(out)


# ------------------------------------------------------------------ inputs that change


def changing_files(bench: Bench, n: int) -> Iterator[Happened]:
    """Change an input while the run waits at a stage: it is named, or the results are of one version, with its hash."""
    maps = [(change, "map", stage) for change in CHANGES for stage in ("hash", "maps", "glm")]
    others = [("has other values", name, stage) for name in ("table", "mask") for stage in ("hash", "maps", "glm")]
    for change, name, stage in spread([*maps, *others], n):
        cohort = bench.folder / "changing"
        shutil.copytree(bench.cohort, cohort)
        out = bench.place()
        path = {
            "map": sorted((cohort / "maps").iterdir())[3],
            "table": cohort / "participants.tsv",
            "mask": cohort / "slices.nii.gz",
        }[name]
        before = sha256_of(path)
        ended = _with_change(bench, cohort, out, stage, lambda path=path, how=change: CHANGES[how](path))
        if ended.code == 65:
            wrong = "" if path.name in ended.said and not out.exists() else f"does not name it: {ended.said[-400:]}"
        elif ended.code != 0:
            wrong = f"exit code {ended.code}: {ended.said[-400:]}"
        else:
            wrong = _mixed(bench, cohort, out, path, before, stage)
        if "Traceback" in ended.said:
            wrong = ended.said[-500:]
        yield Happened("files change", f"{name} {change} before {stage}", ended.code, ended.stage, wrong)
        shutil.rmtree(cohort)
        bench.clear(out)


def _with_change(bench: Bench, cohort: Path, out: Path, stage: str, change: Callable[[], object]) -> Ended:
    held, until = out.parent / "held", out.parent / "until"
    hold = {"stage": stage, "held": str(held), "until": str(until)}
    pid = bench.nursery.start(bench.words(out, *_SHORT, cohort=cohort), hold=hold)
    wait_for(held)
    change()
    until.touch()
    return bench.nursery.wait(pid)


def _mixed(bench: Bench, cohort: Path, out: Path, map_path: Path, before: str, stage: str) -> str:
    """Say what is wrong with results of a run during which a map changed."""
    told = content(out)["participants_used.tsv"].decode() + json.dumps(provenance(out)["inputs"])
    if stage == "glm":  # it had been read: the results are those of the map as it was
        return "" if before in told else "the record holds another hash than that of what was read"
    if not map_path.is_file() or sha256_of(map_path) not in told:
        return "the record holds another hash than that of what was read"
    expected, _ = bench.whole(*_SHORT, cohort=cohort)
    return other_files(content(out), expected)


def _replaced(path: Path) -> None:
    """Other values, on the same grid: no header tells."""
    if path.suffix == ".tsv":
        path.write_text(path.read_text().replace("control", "patient", 1))
        return
    image = nib.load(path)
    values = np.random.default_rng(8).standard_normal(image.shape).astype(np.float32) * (np.asarray(image.dataobj) != 0)
    nib.save(nib.Nifti1Image(values, image.affine), path)


CHANGES: dict[str, Callable[[Path], object]] = {
    "has other values": _replaced,
    "vanishes": Path.unlink,
    "is cut short": lambda path: path.write_bytes(path.read_bytes()[:4000]),
    "becomes text": lambda path: path.write_text("participant_id\tage\n"),
}


def damaged_store(bench: Bench, n: int) -> Iterator[Happened]:
    """Flip one bit of a packed store, or cut a shard short: it is named, and nothing is written."""
    from gpuroi.workflows.pack import pack

    store = bench.folder / "cohort.zarr"
    if not store.exists():
        pack(bench.cohort / "participants.tsv", mask=bench.cohort / "slices.nii.gz", out=store)
    options = ("--data", str(store), "--device", "cpu", "--n-perm", "0")
    expected, _ = bench.whole(*options)
    shards = [path for path in sorted(store.rglob("*")) if path.is_file() and path.name != "zarr.json"]
    texts = sorted(store.rglob("zarr.json"))
    for k in range(n):
        kind = ("flipped", "flipped", "flipped", "cut", "flipped text")[k % 5]
        path = bench.random.choice(texts if kind == "flipped text" else shards)
        whole = path.read_bytes()
        at = bench.random.randrange(len(whole))
        damaged = bytearray(whole)
        damaged[at] ^= 1 << bench.random.randrange(8)
        path.write_bytes(whole[:at] if kind == "cut" else damaged)
        out = bench.place()
        ended = bench.nursery.run(bench.words(out, *options))
        path.write_bytes(whole)
        harmless = kind == "flipped text" and ended.code == 0 and content(out) == expected
        named = ended.code == 65 and store.name in ended.said and not beside(out) and "Traceback" not in ended.said
        wrong = "" if named or harmless else f"exit code {ended.code}: {ended.said[-500:]} {beside(out)}"
        yield Happened("damaged store", f"{kind}: {path.relative_to(store)} at {at}", ended.code, ended.stage, wrong)
        bench.clear(out)


# ------------------------------------------------------------------ two at once, no memory, odd places


def two_at_once(bench: Bench, n: int) -> Iterator[Happened]:
    """Start a second run on the same folder, at every stage of the first, and at the same moment."""
    expected, _ = bench.whole(*_SHORT)
    for k in range(n):
        out = bench.place()
        stage = (None, "table", "maps", "permutations", "writing")[k % 5]
        words = bench.words(out, *_SHORT)
        if stage is None:
            first, second = (bench.nursery.start(words) for _ in range(2))
            ended = [bench.nursery.wait(first), bench.nursery.wait(second)]
        else:
            held, until = out.parent / "held", out.parent / "until"
            first = bench.nursery.start(words, hold={"stage": stage, "held": str(held), "until": str(until)})
            wait_for(held)
            second_ended = bench.nursery.run(words)
            until.touch()
            ended = [bench.nursery.wait(first), second_ended]
            held.unlink()
            until.unlink()
        codes = sorted(one.code for one in ended)
        said = next((one.said for one in ended if one.code == 73), "")
        clear = "is at work on this run" in said and str(first) in said if stage else True
        fine = codes == [0, 73] and clear and content(out) == expected and beside(out) == ["out"]
        wrong = "" if fine else f"exit codes {codes}, left: {beside(out)}: {said[-300:]}"
        yield Happened("two at once", f"the first is at {stage or 'its start'}", ended[1].code, ended[1].stage, wrong)
        bench.clear(out)


def no_memory(bench: Bench, n: int) -> Iterator[Happened]:
    """Let the process have less and less address space: the same bytes, or a clear message and nothing else."""
    options = ("--device", "cpu", "--n-perm", "64")
    cohort = bench.folder / "whole"
    shutil.copytree(bench.cohort, cohort)
    shutil.copyfile(cohort / "mask.nii.gz", cohort / "slices.nii.gz")  # all slices: more than the heap has to spare
    expected, _ = bench.whole(*options, cohort=cohort)
    stages = ("start", "maps", "glm", "permutations", "clusters", "writing")
    sizes = np.geomspace(1 << 16, 1 << 28, -(-n // len(stages))).astype(int).tolist()
    for stage, beyond in spread([(stage, beyond) for beyond in sizes for stage in stages], n):
        out = bench.place()
        words = bench.words(out, *options, cohort=cohort)
        ended = bench.nursery.run(words, memory={"stage": stage, "bytes": beyond})
        case = f"{beyond / 1e6:.2f} MB more from {stage} on"
        yield _short_of_memory("host memory", case, ended, out, expected, other_files)
        bench.clear(out)
    shutil.rmtree(cohort)


def no_device_memory(bench: Bench, n: int) -> Iterator[Happened]:
    """Let a device, which the stand-in plays, have less and less memory: same results, or a clear message."""
    options = ("--n-perm", "100")
    whole = bench.place()
    ended = bench.nursery.run(bench.words(whole, *options), device_memory=1 << 32)
    assert ended.code == 0, ended.said
    expected = content(whole)
    bench.clear(whole)
    for size in np.geomspace(1 << 18, 1 << 26, n).astype(int).tolist():
        out = bench.place()
        ended = bench.nursery.run(bench.words(out, *options), device_memory=size)
        # What does not fit is multiplied block by block, and a product may round otherwise when its shape does.
        yield _short_of_memory("device memory", f"{size / 1e6:.1f} MB", ended, out, expected, other_numbers)
        bench.clear(out)


def _short_of_memory(
    fault: str,
    case: str,
    ended: Ended,
    out: Path,
    expected: dict[str, bytes],
    differences: Callable[[dict[str, bytes], dict[str, bytes]], str],
) -> Happened:
    wrong = ""
    if ended.code == 0:
        wrong = differences(content(out), expected)
    elif ended.code not in (2, 69) or not ("memory" in ended.said or "on the device" in ended.said):
        wrong = f"exit code {ended.code}: {ended.said[-600:]}"
    elif [name for name in beside(out) if name != ".out.gpuroi-run"]:
        wrong = f"left: {beside(out)}"
    if "Traceback" in ended.said:
        wrong = ended.said[-800:]
    return Happened(fault, case, ended.code, ended.stage, wrong)


ODD = {
    "C": {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "TZ": ":/no/such/zone"},
    "Turkish": {"LC_ALL": "tr_TR.UTF-8", "TZ": "Pacific/Kiritimati", "SOURCE_DATE_EPOCH": "-1"},
    "German": {"LC_ALL": "de_DE.UTF-8", "TZ": "XYZ-14:37", "PYTHONHASHSEED": "77"},
}


def odd_places(bench: Bench, n: int) -> Iterator[Happened]:
    """Run with odd locales and time zones: not a byte differs."""
    expected, _ = bench.whole(*_SHORT)
    for name, more in list(ODD.items())[:n]:
        out = bench.place()
        words = gpuroi_in_new_process(bench.words(out, *_SHORT))
        ran = subprocess.run(words, env={**os.environ, **more}, capture_output=True, check=False, timeout=120)
        said = ran.stderr.decode("utf-8", "replace")
        wrong = f"exit code {ran.returncode}: {said[-400:]}" if ran.returncode else other_files(content(out), expected)
        if not wrong and not provenance(out)["date"].endswith("+00:00"):
            wrong = "the time in the record has no zone"
        yield Happened("odd places", f"{name}: {more}", ran.returncode, "", wrong)
        bench.clear(out)


FAULTS: dict[str, tuple[Callable[[Bench, int], Iterator[Happened]], int]] = {
    "killed": (kills, 60),
    "killed over results": (kills_over_results, 16),
    "full disk": (full_disk, 100),
    "full disk of pictures": (full_disk_of_pictures, 8),
    "small disk": (small_disk, 5),
    "read-only": (read_only, 2),
    "files change": (changing_files, 18),
    "damaged store": (damaged_store, 80),
    "two at once": (two_at_once, 10),
    "host memory": (no_memory, 36),
    "device memory": (no_device_memory, 10),
    "odd places": (odd_places, 3),
}
"""Each fault, and how often it is done in the long run."""
