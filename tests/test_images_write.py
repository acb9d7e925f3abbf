"""Writing: whole or not at all, the same bytes every time, and nothing of somebody else's is ever lost."""

from __future__ import annotations

import gzip
import json
import math
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from gpuroi.errors import OutputError, UsageError
from gpuroi.images import open_image, save_image, staged_file, staged_files, staged_folder, write, write_json, write_tsv

AFFINE = np.array([[-2.0, 0.1, 0, 90], [0, 2.5, 0.2, -126], [0.1, 0, 3, -72], [0, 0, 0, 1]])


def tree(folder):
    return sorted(str(p.relative_to(folder)) for p in Path(folder).rglob("*"))


def results(folder, text="old"):
    folder.mkdir(parents=True)
    (folder / "provenance.json").write_text("{}")
    (folder / "map.txt").write_text(text)
    return folder


def fill_and_fail(file, error):
    file.write_text("half")
    raise error


def python(code, *arguments):
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)], stdout=subprocess.PIPE, text=True
    )


def test_folder_appears_whole(tmp_path):
    out = tmp_path / "deep" / "out"
    with staged_folder(out) as folder:
        (folder / "a.txt").write_text("a")
        (folder / "figures").mkdir()
        assert not out.exists()
        assert folder.parent == out.parent
    assert tree(tmp_path / "deep") == ["out", "out/a.txt", "out/figures"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_failure_leaves_nothing(tmp_path, error):
    with pytest.raises(error), staged_folder(tmp_path / "out") as folder:
        fill_and_fail(folder / "a.txt", error)
    assert tree(tmp_path) == []


def test_empty_folder_is_filled_and_full_one_refused(tmp_path):
    (tmp_path / "out").mkdir()
    with staged_folder(tmp_path / "out") as folder:
        (folder / "a.txt").touch()
    assert tree(tmp_path) == ["out", "out/a.txt"]
    with pytest.raises(OutputError, match="out: exists and is not empty") as caught, staged_folder(tmp_path / "out"):
        pytest.fail("nothing may be computed for a place that is taken")
    assert "--overwrite" in caught.value.hint
    assert caught.value.exit_code == 73


def test_overwrite_replaces_results_of_ours_when_the_new_ones_are_complete(tmp_path):
    out = results(tmp_path / "out")
    with staged_folder(out, overwrite=True) as folder:
        (folder / "new.txt").write_text("new")
        assert (out / "map.txt").read_text() == "old"
    assert tree(tmp_path) == ["out", "out/new.txt"]


def test_overwrite_that_fails_keeps_the_old_results(tmp_path):
    out = results(tmp_path / "out")
    with pytest.raises(KeyboardInterrupt), staged_folder(out, overwrite=True) as folder:
        fill_and_fail(folder / "new.txt", KeyboardInterrupt)
    assert tree(tmp_path) == ["out", "out/map.txt", "out/provenance.json"]


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_rename_that_fails_puts_the_old_results_back(tmp_path, monkeypatch, error):
    out = results(tmp_path / "out")
    rename = Path.rename

    def failing(self, target):
        if "partial" in self.name:
            raise error
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", failing)
    with pytest.raises((OutputError, KeyboardInterrupt)), staged_folder(out, overwrite=True) as folder:
        (folder / "new.txt").write_text("new")
    assert tree(tmp_path) == ["out", "out/map.txt", "out/provenance.json"]


@pytest.mark.parametrize(
    "files", [{"thesis.docx": "years of work"}, {"dataset_description.json": '{"Name": "raw data"}'}]
)
def test_folders_of_others_are_never_replaced(tmp_path, files):
    (tmp_path / "out").mkdir()
    for name, text in files.items():
        (tmp_path / "out" / name).write_text(text)
    with pytest.raises(OutputError, match="did not write") as caught, staged_folder(tmp_path / "out", overwrite=True):
        pytest.fail("nothing may be computed for a place that is taken")
    assert str(tmp_path / "out") in caught.value.message
    assert {p.name: p.read_text() for p in (tmp_path / "out").iterdir()} == files


def test_bids_derivative_of_ours_is_ours(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "dataset_description.json").write_text('{"GeneratedBy": [{"Name": "gpuroi"}]}')
    with staged_folder(tmp_path / "out", overwrite=True) as folder:
        (folder / "a.txt").touch()
    assert tree(tmp_path / "out") == ["a.txt"]


def test_folder_that_is_filled_by_another_meanwhile_stays(tmp_path):
    with pytest.raises(OutputError, match="exists and is not empty"), staged_folder(tmp_path / "out") as folder:
        results(folder.parent / "out", "theirs")
    assert (tmp_path / "out" / "map.txt").read_text() == "theirs"
    assert tree(tmp_path) == ["out", "out/map.txt", "out/provenance.json"]


@pytest.mark.parametrize("place", ["file/out", "file"])
def test_places_that_cannot_be_written(tmp_path, place):
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputError, match="file") as caught, staged_folder(tmp_path / place):
        pytest.fail("nothing may be computed for a place that cannot be written")
    assert caught.value.hint
    assert tree(tmp_path) == ["file"]


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a file system that nobody can write to: /proc")
def test_read_only_file_system():
    with pytest.raises(OutputError, match="/proc/out"), staged_folder("/proc/out"):
        pytest.fail("unreachable")
    with pytest.raises(OutputError, match="/proc"):
        save_image("/proc/x.nii", np.ones((2, 2, 2)), AFFINE)


def test_link_to_a_folder_stays_a_link(tmp_path):
    results(tmp_path / "real")
    (tmp_path / "out").symlink_to(tmp_path / "real")
    with staged_folder(tmp_path / "out", overwrite=True) as folder:
        (folder / "new.txt").touch()
    assert (tmp_path / "out").is_symlink()
    assert tree(tmp_path / "real") == ["new.txt"]


def test_change_of_folder_meanwhile(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "elsewhere").mkdir()
    with staged_folder("out") as folder:
        monkeypatch.chdir(tmp_path / "elsewhere")
        (folder / "a.txt").touch()
    assert tree(tmp_path) == ["elsewhere", "out", "out/a.txt"]


@pytest.mark.parametrize(("number", "left"), [(signal.SIGKILL, True), (signal.SIGINT, False)])
def test_killed_process_leaves_the_old_results(tmp_path, number, left):
    out = results(tmp_path / "out")
    process = python(
        """
        import sys, time
        from gpuroi.images import staged_folder
        with staged_folder(sys.argv[1], overwrite=True) as folder:
            (folder / "half.txt").write_text("half")
            print("ready", flush=True)
            time.sleep(60)
        """,
        out,
    )
    assert process.stdout.readline() == "ready\n"
    process.send_signal(number)
    process.wait(30)
    process.stdout.close()
    assert tree(out) == ["map.txt", "provenance.json"]
    partial = [p.name for p in tmp_path.iterdir() if p.name != "out"]
    assert len(partial) == left  # only SIGKILL leaves one, hidden and named partial
    assert all(name.startswith(".partial-") for name in partial)


def test_file_appears_whole(tmp_path):
    with staged_file(tmp_path / "sub" / "map.nii.gz") as file:
        assert file.name.endswith("map.nii.gz")
        file.write_text("x")
        assert tree(tmp_path) == ["sub", f"sub/{file.name}"]
    assert tree(tmp_path) == ["sub", "sub/map.nii.gz"]


def test_file_that_fails_or_exists(tmp_path):
    (tmp_path / "a.txt").write_text("old")
    with pytest.raises(OutputError, match=r"a\.txt: exists already"), staged_file(tmp_path / "a.txt"):
        pytest.fail("nothing may be computed for a place that is taken")
    with pytest.raises(ZeroDivisionError), staged_file(tmp_path / "a.txt", overwrite=True) as file:
        fill_and_fail(file, ZeroDivisionError)
    assert (tmp_path / "a.txt").read_text() == "old"
    with staged_file(tmp_path / "a.txt", overwrite=True) as file:
        file.write_text("new")
    assert (tmp_path / "a.txt").read_text() == "new"
    assert tree(tmp_path) == ["a.txt"]
    with pytest.raises(OutputError, match="a folder of this name"), staged_file(tmp_path, overwrite=True):
        pytest.fail("unreachable")


@pytest.mark.parametrize("name", ["x.nii", "x.nii.gz"])
@pytest.mark.parametrize(
    ("dtype", "stored"),
    [
        ("f4", "f4"),
        ("f8", "f8"),
        ("f2", "f4"),
        ("?", "u1"),
        ("i2", "i4"),
        ("u1", "i4"),
        ("i8", "i4"),
        (">f4", "f4"),
        (">i2", "i4"),
    ],
)
@pytest.mark.parametrize("shape", [(4, 5, 6), (3, 4, 5, 6), (1, 4, 5, 6)])
def test_round_trip_through_nibabel(tmp_path, name, dtype, stored, shape):
    data = (np.random.default_rng(0).random(shape) * 2).astype(dtype)
    path = save_image(tmp_path / name, data, AFFINE)
    img = nib.load(path)
    assert isinstance(img, nib.Nifti1Image)
    assert img.get_data_dtype() == np.dtype(stored)
    got = np.asanyarray(img.dataobj)
    np.testing.assert_array_equal(got if data.ndim == 3 else np.moveaxis(got, -1, 0), data.astype(stored))
    np.testing.assert_allclose(img.affine, AFFINE, rtol=1e-6)
    image = open_image(path)
    np.testing.assert_array_equal(image.read(dtype=np.float64).reshape(shape), data.astype(np.float64))
    assert img.header.get_xyzt_units() == ("mm", "sec")
    assert path.stat().st_mode & 0o777 == 0o666 & ~_umask()


def _umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask


@pytest.mark.parametrize("order", ["C", "F", "strided"])
def test_memory_order_does_not_matter(tmp_path, order):
    data = np.random.default_rng(0).random((3, 4, 5, 6)).astype("f4")
    given = data[:, ::-1][:, ::-1] if order == "strided" else np.asarray(data, order=order)
    save_image(tmp_path / "a.nii.gz", data, AFFINE)
    save_image(tmp_path / "b.nii.gz", given, AFFINE)
    assert (tmp_path / "a.nii.gz").read_bytes() == (tmp_path / "b.nii.gz").read_bytes()


def test_bytes_are_the_same_every_time(tmp_path, monkeypatch):
    data = np.random.default_rng(0).random((3, 4, 5, 6)).astype("f4")
    save_image(tmp_path / "a.nii.gz", data, AFFINE, sidecar={"b": 1, "a": 2})
    monkeypatch.setattr("time.time", lambda: 2e9)
    save_image(tmp_path / "other.nii.gz", data, AFFINE, sidecar={"a": 2, "b": 1})
    first = (tmp_path / "a.nii.gz").read_bytes()
    assert first == (tmp_path / "other.nii.gz").read_bytes()
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "other.json").read_bytes()
    assert first[3:8] == bytes(5)  # no name, no time
    save_image(tmp_path / "plain.nii", data, AFFINE)
    assert gzip.decompress(first) == (tmp_path / "plain.nii").read_bytes()


def test_space_units_and_tr_are_kept(tmp_path):
    source = nib.Nifti1Image(np.ones((4, 5, 6, 3), np.int16), AFFINE)
    source.set_sform(AFFINE, 4)
    source.set_qform(AFFINE, 1)
    source.header.set_xyzt_units("mm", "msec")
    source.header["pixdim"][4] = 2500
    nib.save(source, tmp_path / "source.nii")
    like = open_image(tmp_path / "source.nii")
    img = nib.load(save_image(tmp_path / "x.nii.gz", np.ones((2, 4, 5, 6)), like.affine, like=like))
    assert (int(img.header["sform_code"]), int(img.header["qform_code"])) == (4, 1)
    assert img.header.get_xyzt_units() == ("mm", "msec")
    assert img.header.get_zooms()[3] == 2500
    assert open_image(tmp_path / "x.nii.gz").tr_s == 2.5
    np.testing.assert_allclose(img.affine, like.affine, rtol=1e-6)
    one = nib.load(save_image(tmp_path / "one.nii.gz", np.ones((4, 5, 6)), like.affine, like=like))
    assert int(one.header["sform_code"]) == 4


def test_qform_alone_and_other_formats_as_like(tmp_path):
    source = nib.Nifti1Image(np.ones((4, 5, 6), np.int16), None)
    source.set_qform(np.diag([2, 2, 3, 1.0]), 3)
    source.header["sform_code"] = 0
    nib.save(source, tmp_path / "q.nii")
    like = open_image(tmp_path / "q.nii")
    img = nib.load(save_image(tmp_path / "x.nii", np.ones((4, 5, 6)), like.affine, like=like))
    assert (int(img.header["sform_code"]), int(img.header["qform_code"])) == (3, 3)
    nib.save(nib.MGHImage(np.ones((4, 5, 6, 2), np.float32), AFFINE), tmp_path / "m.mgz")
    like = open_image(tmp_path / "m.mgz")
    img = nib.load(save_image(tmp_path / "y.nii", like.read(), like.affine, like=like))
    np.testing.assert_allclose(img.affine, like.affine, rtol=1e-6)


def test_long_axis_makes_nifti2(tmp_path):
    img = nib.load(
        save_image(tmp_path / "x.nii.gz", np.arange(40_000, dtype=np.int32).reshape(40_000, 1, 1), np.eye(4))
    )
    assert isinstance(img, nib.Nifti2Image)
    assert img.shape == (40_000, 1, 1)
    assert open_image(tmp_path / "x.nii.gz").read_one()[-1, 0, 0] == 39_999


def test_what_cannot_be_stored_is_refused(tmp_path):
    with pytest.raises(UsageError, match=r"x\.nii: values from 0 to 4294967296 do not fit int32"):
        save_image(tmp_path / "x.nii", np.array([[[0, 2**32]]]), AFFINE)
    with pytest.raises(UsageError, match="do not fit uint8"):
        save_image(tmp_path / "x.nii", np.array([[[0, 300]]]), AFFINE, dtype="u1")
    with pytest.raises(UsageError, match="do not fit int16"):
        save_image(tmp_path / "x.nii", np.array([[[0, np.nan]]]), AFFINE, dtype="i2")
    with pytest.raises(UsageError, match="complex"):
        save_image(tmp_path / "x.nii", np.ones((2, 2, 2), complex), AFFINE)
    with pytest.raises(UsageError, match=r"expected \(X, Y, Z\)"):
        save_image(tmp_path / "x.nii", np.ones((2, 2)), AFFINE)
    with pytest.raises(OutputError, match="written as NIfTI"):
        save_image(tmp_path / "x.img", np.ones((2, 2, 2)), AFFINE)
    assert tree(tmp_path) == []


def test_image_and_sidecar_both_or_none(tmp_path, monkeypatch):
    save_image(tmp_path / "x.nii.gz", np.zeros((2, 2, 2), "f4"), AFFINE, sidecar={"v": 1})
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    with pytest.raises(OutputError, match="exists already"):
        save_image(tmp_path / "x.nii", np.ones((2, 2, 2)), AFFINE, sidecar={"v": 2})  # its sidecar is taken
    with pytest.raises(TypeError):
        save_image(tmp_path / "x.nii.gz", np.ones((2, 2, 2)), AFFINE, sidecar={"v": object()}, overwrite=True)
    rename = Path.rename

    def failing(self, target):
        if self.name.startswith(".partial") and self.name.endswith(".json"):
            raise OSError(28, "No space left on device")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", failing)
    with pytest.raises(OutputError, match="No space left"):
        save_image(tmp_path / "x.nii.gz", np.ones((2, 2, 2)), AFFINE, sidecar={"v": 2}, overwrite=True)
    with pytest.raises(OutputError, match="No space left"):
        save_image(tmp_path / "y.nii.gz", np.ones((2, 2, 2)), AFFINE, sidecar={"v": 2})
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before
    monkeypatch.undo()
    save_image(tmp_path / "x.nii.gz", np.ones((2, 2, 2), "f4"), AFFINE, sidecar={"v": 2}, overwrite=True)
    assert json.loads((tmp_path / "x.json").read_text()) == {"v": 2}
    assert open_image(tmp_path / "x.nii.gz").read().sum() == 8
    assert tree(tmp_path) == ["x.json", "x.nii.gz"]


def test_full_disk_is_one_error_and_leaves_nothing(tmp_path):
    process = python(
        """
        import resource, sys
        import numpy as np
        from gpuroi.errors import OutputError
        from gpuroi.images import save_image
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        data = np.random.default_rng(0).random((40, 40, 40)).astype("f4")
        for name in ("x.nii", "x.nii.gz"):
            try:
                save_image(sys.argv[1] + "/" + name, data, np.eye(4), sidecar={})
            except OutputError as error:
                print(error.exit_code, error.message)
        """,
        tmp_path,
    )
    said, _ = process.communicate(timeout=60)
    assert said.splitlines() == [
        f"73 {tmp_path}/{name}: cannot be written: File too large" for name in ("x.nii", "x.nii.gz")
    ]
    assert tree(tmp_path) == []


def test_json_is_plain_sorted_and_valid(tmp_path):
    obj = {
        "z": np.float32(0.5),
        "a": [np.int64(3), float("nan"), -math.inf, None, True, np.bool_(False)],
        "m": {"b": np.array([[1.0, np.nan]]), 2: Path("x") / "y", "s": {3, 1}},
        "ü": "ß",
    }
    text = write_json(tmp_path / "x.json", obj).read_text(encoding="utf-8")
    assert json.loads(text) == {
        "z": 0.5,
        "a": [3, None, None, None, True, False],
        "m": {"b": [[1.0, None]], "2": str(Path("x/y")), "s": [1, 3]},
        "ü": "ß",
    }
    assert list(json.loads(text)) == ["a", "m", "z", "ü"]
    assert text.endswith("}\n")
    assert "ü" in text
    with pytest.raises(OutputError, match="exists already"):
        write_json(tmp_path / "x.json", {})
    with pytest.raises(TypeError):
        write_json(tmp_path / "y.json", object())
    assert tree(tmp_path) == ["x.json"]


def test_tsv_as_bids_wants_it(tmp_path):
    table = pd.DataFrame({"id": ["01", "02"], "age": [34.5, np.nan], "n": [1, 2], "group": ["a", None]})
    path = write_tsv(tmp_path / "x.tsv", table)
    assert path.read_bytes() == b"id\tage\tn\tgroup\n01\t34.5\t1\ta\n02\tn/a\t2\tn/a\n"
    back = pd.read_csv(path, sep="\t", na_values="n/a", dtype={"id": str})
    pd.testing.assert_frame_equal(back, table, check_dtype=False)
    write_tsv(tmp_path / "empty.tsv", table.iloc[:0])
    assert (tmp_path / "empty.tsv").read_bytes() == b"id\tage\tn\tgroup\n"


def test_all_writers_inside_a_staged_folder(tmp_path):
    with staged_folder(tmp_path / "out") as folder:
        save_image(folder / "map.nii.gz", np.ones((2, 2, 2), "f4"), AFFINE, sidecar={"n": 1})
        write_tsv(folder / "t.tsv", pd.DataFrame({"a": [1]}))
        write_json(folder / "provenance.json", {})
    assert tree(tmp_path) == ["out", "out/map.json", "out/map.nii.gz", "out/provenance.json", "out/t.tsv"]


def test_hidden_names_are_beside_the_target_and_differ():
    names = {write._beside(Path("/a/b/map.nii.gz"), "partial") for _ in range(100)}
    assert len(names) == 100
    assert all(n.parent == Path("/a/b") and n.name.endswith("-map.nii.gz") for n in names)


def test_importing_the_package_is_light():
    code = """
    import sys
    import gpuroi.images.masks, gpuroi.images.small_regions, gpuroi.images.write
    print(sorted({"nibabel", "pandas", "scipy", "numba", "deflate", "isal"} & set(sys.modules)))
    """
    said, _ = python(code).communicate(timeout=60)
    assert said == "[]\n"


def test_several_files_take_their_places_together_or_not_at_all(tmp_path):
    paths = [tmp_path / "t.tsv", tmp_path / "t.json"]
    with staged_files(paths) as (table, sidecar):
        table.write_text("one")
        sidecar.write_text("two")
        assert not any(path.exists() for path in paths)
    assert [path.read_text() for path in paths] == ["one", "two"]
    with pytest.raises(ZeroDivisionError), staged_files(paths, overwrite=True) as (table, _):  # noqa: PT012
        table.write_text("three")
        1 / 0  # noqa: B018
    assert [path.read_text() for path in paths] == ["one", "two"]
    paths[0].unlink()
    with pytest.raises(OutputError, match=r"t\.json: exists already"), staged_files(paths):
        pass
    assert sorted(tmp_path.iterdir()) == paths[1:]
