"""Look-up tables of atlases: every kind of file, and what is refused."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuroi.errors import DataError
from gpuroi.images import LabelNames, find_label_names, read_atlas, read_label_names

FSL = """<?xml version="1.0" encoding="ISO-8859-1"?>
<atlas version="1.0"><header><name>Cortical</name><shortname>HOCPA</shortname><type>{kind}</type></header>
<data>
<label index="0" x="48" y="94" z="35">Frontal Pole</label>
<label index="1" x="25" y="70" z="32">Insular Cortex </label>
<label index="7"{value} x="25" y="70" z="32">Precentral Gyrus</label>
</data></atlas>"""


def written(folder, name, text, encoding="utf-8"):
    path = folder / name
    path.write_bytes(text.encode(encoding))
    return path


def test_bids_table_keyed_by_id_not_by_position(tmp_path):
    text = "index\tname\tabbreviation\tcolor\n900\tFar\tF\t#ff0000\n0\tBackground\tbg\t\n17\tNear gyrus\tN\t#00ff00\n"
    names = read_label_names(written(tmp_path, "atlas_dseg.tsv", text))
    assert dict(names) == {900: "Far", 17: "Near gyrus"}
    assert list(names) == [900, 17]
    assert (names.name(17), names.name(3), names.name(0)) == ("Near gyrus", "label 3", "n/a")


@pytest.mark.parametrize(
    "text", ["\ufeffindex\tname\r\n1\tNA\r\n2\tNone\r\n3\tnull\r\n", "name\tindex\nNA\t1\nNone\t2.0\nnull\t3\n"]
)
def test_names_that_look_like_missing_values_stay_text(tmp_path, text):
    assert dict(read_label_names(written(tmp_path, "x_dseg.tsv", text))) == {1: "NA", 2: "None", 3: "null"}


def test_comma_separated_table(tmp_path):
    assert dict(read_label_names(written(tmp_path, "a.csv", 'index,name\n4,"Gyrus, left"\n'))) == {4: "Gyrus, left"}


def test_look_up_table_of_nilearn():
    table = pd.DataFrame({"index": [0, 2, 5], "name": ["Background", "a", "b"], "color": ["#0", "#1", "#2"]})
    assert dict(read_label_names(table)) == {2: "a", 5: "b"}
    assert dict(read_label_names({2: "a", np.int16(5): "b"})) == {2: "a", 5: "b"}
    names = LabelNames({3: "x"})
    assert read_label_names(names) is names


@pytest.mark.parametrize(
    ("kind", "value", "expected"),
    [
        ("Probabilistic", "", {1: "Frontal Pole", 2: "Insular Cortex", 8: "Precentral Gyrus"}),
        ("Probabalistic", "", {1: "Frontal Pole", 2: "Insular Cortex", 8: "Precentral Gyrus"}),  # FSL's own spelling
        ("Label", "", {1: "Insular Cortex", 7: "Precentral Gyrus"}),
        ("Label", ' value="70"', {1: "Insular Cortex", 70: "Precentral Gyrus"}),
        ("Probabilistic", ' value="70"', {1: "Frontal Pole", 2: "Insular Cortex", 70: "Precentral Gyrus"}),
    ],
)
def test_fsl_numbers_by_the_kind_of_atlas(tmp_path, kind, value, expected):
    path = written(tmp_path, "HarvardOxford.xml", FSL.format(kind=kind, value=value), "latin-1")
    assert dict(read_label_names(path)) == expected


def test_freesurfer_colour_table(tmp_path):
    text = (
        "#$Id: FreeSurferColorLUT.txt\n\n#No. Label Name:            R   G   B   A\n"
        "0   Unknown   0 0 0 0\n2   Left-Cerebral-White-Matter  245 245 245 0\n"
        "14175  wm_rh_S_temporal_transverse  221 60 60 0\n"
    )
    names = read_label_names(written(tmp_path, "FreeSurferColorLUT.txt", text))
    assert dict(names) == {2: "Left-Cerebral-White-Matter", 14175: "wm_rh_S_temporal_transverse"}


def test_lists_with_tabs_spaces_or_no_colours(tmp_path):
    tabs = written(tmp_path, "schaefer.txt", "1\t7Networks_LH_Vis_1\t120\t18\t131\t0\n2\tArea 44\t1\t2\t3\t0\n")
    assert dict(read_label_names(tabs)) == {1: "7Networks_LH_Vis_1", 2: "Area 44"}
    bare = written(tmp_path, "bare.lut", "1 Area 44\n2 Superior Temporal Gyrus 0.1 0.2 0.3\n")
    assert dict(read_label_names(bare)) == {1: "Area 44", 2: "Superior Temporal Gyrus"}


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.tsv", "id\tlabel\n1\tx\n", "no column index and no column name, it has id, label"),
        ("a.tsv", "", "the table is empty"),
        ("a.tsv", "index\tname\n1\tx\n1\ty\n", "number 1 is there twice, as 'x' and 'y'"),
        ("a.tsv", "index\tname\n1.5\tx\n", "'1.5' is not the number of a region"),
        ("a.tsv", "index\tname\n-4\tx\n", "'-4' is not the number"),
        ("a.tsv", "index\tname\nnan\tx\n", "'nan' is not the number"),
        ("a.tsv", "index\tname\n99999999999\tx\n", "'99999999999' is not the number"),
        ("a.txt", "1 Ok 0 0 0 0\nnonsense\n", "line 2 is 'nonsense'"),
        ("a.txt", "1\n", "line 1 is '1'"),
        ("a.xml", "<atlas>", "not readable as XML"),
        ("a.xml", "<atlas><data/></atlas>", "no <label>"),
        ("a.xml", '<!DOCTYPE a [<!ENTITY b "c">]><atlas><label index="1">&b;</label></atlas>', "entities"),
        ("a.xml", "<atlas><label>x</label></atlas>", "None is not the number"),
        ("a.json", "{}", "not a known table"),
        ("a.txt", "1 a\0b", "not a text file"),
    ],
)
def test_broken_tables_are_named(tmp_path, name, text, message):
    with pytest.raises(DataError) as error:
        read_label_names(written(tmp_path, name, text))
    assert message in str(error.value)
    assert name in str(error.value)


def test_missing_files_and_other_things_are_refused(tmp_path):
    with pytest.raises(DataError, match=r"absent\.tsv"):
        read_label_names(tmp_path / "absent.tsv")
    with pytest.raises(DataError, match="got list"):
        read_label_names(["a", "b"])


@given(st.dictionaries(st.integers(1, 2**31 - 1), st.text("abcXYZ_- ", min_size=1).filter(str.strip), max_size=30))
def test_written_and_read_again(tmp_path_factory, names):
    path = tmp_path_factory.mktemp("lut") / "x.tsv"
    pd.DataFrame({"index": list(names), "name": list(names.values())}).to_csv(path, sep="\t", index=False)
    assert dict(read_label_names(path)) == {number: name.strip() for number, name in names.items()}


@pytest.mark.parametrize("image", ["atlas.v1_dseg.nii.gz", "atlas.v1_dseg.nii", "atlas.v1_dseg.mgz"])
@pytest.mark.parametrize("table", ["atlas.v1_dseg.tsv", "atlas.v1_dseg.txt"])
def test_names_beside_an_image(tmp_path, image, table):
    assert find_label_names(tmp_path / image) is None
    text = "index\tname\n3\tthree\n" if table.endswith("tsv") else "3 three 0 0 0 0\n"
    written(tmp_path, table, text)
    found = find_label_names(tmp_path / image)
    assert found is not None
    assert dict(found) == {3: "three"}
    if image.endswith(".mgz"):
        return
    nib.save(nib.Nifti1Image(np.full((2, 2, 2), 3, np.int16), np.eye(4)), tmp_path / image)
    assert read_atlas(tmp_path / image).names.name(3) == "three"
    assert read_atlas(tmp_path / image, {3: "other"}).names.name(3) == "other"


def test_atlas_without_names_is_called_by_its_numbers():
    image = nib.Nifti1Image(np.array([[[0, 130, 40000]]], np.int32), np.eye(4))
    atlas = read_atlas(image)
    assert [atlas.names.name(n) for n in atlas.labels.ravel().tolist()] == ["n/a", "label 130", "label 40000"]
    assert read_atlas(atlas) is atlas
    assert read_atlas(atlas, {130: "x"}).names.name(130) == "x"
    with pytest.raises(DataError, match="whole number"):
        read_atlas(nib.Nifti1Image(np.array([[[0.5]]], np.float32), np.eye(4)))
