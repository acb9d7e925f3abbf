"""How-tos and explanations: their commands run, or, where a cluster, an engine or a GPU is needed, are parsed.

`console` blocks run; `bash` blocks hold what cannot run here: every call of gpuroi in them is parsed by the command
line itself, and job scripts run with stand-ins for what SLURM brings.
"""

from __future__ import annotations

import fnmatch
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import nibabel
import numpy as np
import pytest
from doc_pages import cell_commands, console_commands, fenced, run_console, run_python, script_commands
from scipy import stats
from test_probe import STATES

import gpuroi
from gpuroi.backends.probe import describe
from gpuroi.cli import main
from gpuroi.cli.app import build_app
from gpuroi.cli.bids import build_bids_app
from gpuroi.cohort import write_vest

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted(path for name in ("howto", "explanation") for path in (ROOT / "docs" / name).glob("*.md"))
HOWTO = {path.stem: path for path in PAGES if path.parent.name == "howto"}
WITH_CONSOLE = [page for page in PAGES if console_commands(page)]
WITH_SCRIPTS = [page for page in PAGES if fenced(page, "bash")]


def name(page: Path) -> str:
    return f"{page.parent.name}/{page.stem}"


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("howto")
    gpuroi.demo(folder / "demo")
    return folder


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_python_prints_what_the_page_shows(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GPUROI_DEVICE", "cpu")
    monkeypatch.setenv("MPLBACKEND", "Agg")
    run_python(page)


@pytest.mark.parametrize("page", WITH_CONSOLE, ids=name)
def test_console_commands_run(page, demo, tmp_path, capsys):
    (tmp_path / "demo").symlink_to(demo / "demo", target_is_directory=True)
    assert run_console(page, tmp_path, main, capsys) > 0


def test_there_is_something_to_run():
    assert len(PAGES) >= 12
    assert len(WITH_CONSOLE) >= 4
    assert sum(len(script_commands(block)) for page in WITH_SCRIPTS for block in fenced(page, "bash")) >= 15


@pytest.mark.parametrize("page", WITH_SCRIPTS, ids=name)
def test_commands_that_cannot_run_here_are_parsed(page):
    for block in fenced(page, "bash"):
        for program, *words in script_commands(block):
            app = build_bids_app() if program == "gpuroi-bids" else build_app()
            command, bound, _ = app.parse_args(words, print_error=False, exit_on_error=False)
            if program == "gpuroi-bids":
                rest = [*bound.args[3:], "--out", "x"]
                build_app().parse_args(["screen", "table.tsv", *rest], print_error=False, exit_on_error=False)
            assert callable(command)


def test_a_page_with_an_option_that_does_not_exist_fails(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("```bash\nsrun gpuroi smooth a.nii --fwhn 6 --out b.nii\n```\n")
    with pytest.raises(Exception, match="fwhn"):
        test_commands_that_cannot_run_here_are_parsed(page)


def options_of(command: str) -> set[str]:
    return {option for argument in build_app()[command].assemble_argument_collection() for option in argument.names}


@pytest.mark.parametrize("page", [page for page in PAGES if cell_commands(page)], ids=name)
def test_options_in_tables_exist(page):
    commands = list(build_app())
    everywhere = set().union(*(options_of(command) for command in commands if not command.startswith("-")))
    for code in cell_commands(page):
        words = shlex.split(code)
        known = everywhere if words[0] != "gpuroi" else options_of(words[1])
        asked = {word for word in words if word.startswith("--")}
        assert asked <= known | {"--gpus", "--nv"}, code


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_somewhere(page):
    links = [link.partition("#")[0] for link in re.findall(r"\]\(([^)]+)\)", page.read_text(encoding="utf-8"))]
    assert [link for link in links if link and "://" not in link and not (page.parent / link).exists()] == []


@pytest.mark.parametrize("folder", ["howto", "explanation"])
def test_every_page_is_in_its_index(folder):
    index = (ROOT / "docs" / folder / "index.md").read_text(encoding="utf-8")
    listed = re.search(r"```\{toctree\}\n(?::\w+:.*\n)*\n(.*?)```", index, re.DOTALL)[1].split()
    assert sorted(listed) == sorted(page.stem for page in PAGES if page.parent.name == folder and page.stem != "index")


def test_the_messages_of_the_gpu_page_are_those_of_the_probe():
    table = HOWTO["gpu"].read_text(encoding="utf-8").partition("## Messages")[2]
    said = [line.split(" | ")[0].removeprefix("| ") for line in table.splitlines() if line.startswith("| ")]
    said.remove("message")
    reasons = [describe(facts).reason for facts, _, _ in STATES.values()]
    reasons = [reason for reason in reasons if reason]
    assert [text for text in said if not any(text in reason for reason in reasons)] == []
    known = [fnmatch.translate(f"*{text}*") for text in said]
    loose = [*known, ".*supports CUDA.*"]  # an ancient driver, a CuPy from elsewhere: the message has the command
    assert [r for r in reasons if not any(re.match(k, r.replace("[", "(")) or k for k in loose)] == []


def job_scripts() -> list[str]:
    return [block for block in fenced(HOWTO["slurm"], "bash") if 'requeue "' in block]


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    """What SLURM brings, made of files: srun runs, scontrol writes down what it was told."""

    def write(program: str, text: str) -> None:
        path = tmp_path / "bin" / program
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"#!/bin/bash\n{text}\n")
        path.chmod(0o755)

    write("srun", 'exec "$@"')
    write("apptainer", 'shift 3; exec gpuroi "$@"')
    write("scontrol", f'echo "$@" >> {tmp_path}/scontrol.log')
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    for variable, value in {"JOB_ID": 77, "ARRAY_JOB_ID": 70, "ARRAY_TASK_ID": 2, "CPUS_PER_TASK": 2}.items():
        monkeypatch.setenv(f"SLURM_{variable}", str(value))
    (tmp_path / "contrasts.txt").write_text("age\npatient=group[T.patient]\n")
    return write


@pytest.mark.parametrize("script", job_scripts(), ids=["one", "array", "gpu"])
@pytest.mark.parametrize(("code", "requeued"), [(75, True), (0, False), (65, False)])
def test_jobs_are_requeued_when_interrupted_and_only_then(script, code, requeued, cluster, tmp_path):
    cluster("gpuroi", f'echo "$@" > {tmp_path}/words; exit {code}')
    done = subprocess.run(["bash", "-c", script], cwd=tmp_path, check=False)
    assert done.returncode == code
    log = tmp_path / "scontrol.log"
    assert (log.read_text() if log.exists() else "") == (
        f"requeue {'70_2' if 'ARRAY' in script else '77'}\n" if requeued else ""
    )
    words = (tmp_path / "words").read_text()
    assert words.startswith("screen ")
    assert ("--contrast patient=group[T.patient]" in words) or "--contrast age" in words


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds the process of the job in /proc")
def test_a_job_that_is_stopped_goes_on_to_the_same_bytes(cluster, demo, tmp_path):
    """The first script of the page, for real: SIGTERM in the middle, exit 75, the same job again."""
    (tmp_path / "demo").symlink_to(demo / "demo", target_is_directory=True)
    cluster("gpuroi", f'exec {sys.executable} -m gpuroi "$@"')
    script = (
        job_scripts()[0]
        .replace("participants.tsv", "demo/participants.tsv")
        .replace(" mask.nii.gz", " demo/mask.nii.gz")
    )
    script = script.replace("--n-perm 10000", "--n-perm 3000 --no-figures --device cpu").replace("14GB", "2GB")
    whole = script.replace("--out results/", "--out whole/")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    running = subprocess.Popen(
        ["bash", "-c", script], cwd=tmp_path, env=environment, start_new_session=True, stderr=subprocess.PIPE, text=True
    )
    unfinished = tmp_path / ".results.gpuroi-run"
    deadline = time.monotonic() + 60
    while not unfinished.exists() and running.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(2.0)
    child = subprocess.run(
        ["pgrep", "-P", str(running.pid)], capture_output=True, text=True, check=False
    ).stdout.split()
    os.kill(int(child[0]), signal.SIGTERM)
    _, said = running.communicate(timeout=60)
    assert running.returncode == 75, said
    assert (tmp_path / "scontrol.log").read_text() == "requeue 77\n"
    for text in (script, whole):
        subprocess.run(["bash", "-c", text], cwd=tmp_path, env=environment, check=True, capture_output=True)
    tables = sorted(path.name for path in (tmp_path / "whole").glob("*.tsv"))
    assert len(tables) >= 5
    for table in tables:
        assert (tmp_path / "results" / table).read_bytes() == (tmp_path / "whole" / table).read_bytes(), table
    assert not unfinished.exists()


def test_the_commands_beside_randomise_and_palm_run(tmp_path, monkeypatch, capsys):
    """On the maps that the page makes and design files of FSL; in both the t maps are the same."""
    page = HOWTO["from-fsl-palm"]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GPUROI_DEVICE", "cpu")
    run_python(page)
    group = np.repeat([0, 1], 8)
    write_vest("design.mat", np.column_stack([1 - group, group]))
    write_vest("design.con", np.array([[-1.0, 1.0]]))
    write_vest("design.grp", np.tile([1, 2], 8)[:, None])
    nibabel.save(nibabel.Nifti1Image(np.ones((8, 8, 8), np.uint8), np.eye(4)), "mask.nii.gz")
    commands = [words for block in fenced(page, "bash") for words in script_commands(block)]
    maps = []
    for k, (program, *words) in enumerate(commands):
        assert program == "gpuroi"
        words = [{"5000": "40", "out/": f"out{k}"}.get(word, word) for word in words]
        assert main([*words, "--no-figures"]) == 0, capsys.readouterr().err
        (found,) = Path(f"out{k}").glob("*_stat-t_statmap.nii.gz")
        maps.append(nibabel.load(found).get_fdata())
    assert len(maps) == 2
    np.testing.assert_array_equal(*maps)
    data = np.stack([nibabel.load(path).get_fdata() for path in sorted(Path("maps").glob("*.nii.gz"))])
    np.testing.assert_allclose(maps[0], stats.ttest_ind(data[8:], data[:8]).statistic, rtol=1e-4, atol=1e-5)


def test_compose_and_images_agree():
    import yaml

    services = yaml.safe_load((ROOT / "docker" / "compose.yaml").read_text(encoding="utf-8"))["services"]
    assert set(services) == {"cpu", "cuda"}
    for kind, service in services.items():
        assert service["image"] == f"gpuroi:{kind}"
        assert (ROOT / service["build"]["dockerfile"]).is_file()
        assert service["volumes"] == ["${DATA:-.}:/data"]
        assert service["read_only"]
