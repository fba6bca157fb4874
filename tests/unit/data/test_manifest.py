import pytest
from hypothesis import given
from hypothesis import strategies as st

from cellmap_pipeline.crop_label import CropLabel
from cellmap_pipeline.data.manifest import (
    COLUMNS,
    TOOLBOX,
    local_manifest,
    parse_manifest,
    read_manifest,
    write_manifest,
)
from cellmap_pipeline.errors import InputError
from cellmap_pipeline.geometry import Grid

HEADER = ",".join(COLUMNS)
GOOD = "4,jrc_a-1,mito,[1.74;2.0;2.0],[23837.13;7599.0;35999.0],[600;500;400]"

numbers = st.floats(0.5, 1e5).map(lambda v: round(v, 2))
rows = st.builds(
    CropLabel,
    st.integers(0, 10_000),
    st.just("jrc_a-1"),
    st.sampled_from(["mito", "er_mem_all", "nuc"]),
    st.builds(
        Grid,
        st.tuples(numbers, numbers, numbers),
        st.tuples(numbers, numbers, numbers),
        st.tuples(*[st.integers(1, 2000)] * 3),
    ),
)


def test_row_of_the_challenge_is_parsed():
    (row,) = parse_manifest(f"{HEADER}\n{GOOD}\n", "m.csv")
    grid = Grid((1.74, 2, 2), (23837.13, 7599, 35999), (600, 500, 400))
    assert row == CropLabel(4, "jrc_a-1", "mito", grid)


@given(st.lists(rows, min_size=1, unique_by=lambda row: (row.crop, row.label)))
def test_written_manifest_is_read_unchanged(tmp_path_factory, manifest):
    path = tmp_path_factory.mktemp("manifest") / "m.csv"
    write_manifest(manifest, path)
    assert read_manifest(path) == manifest


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "line 1: the header"),
        ("a,b,c\n", "line 1: the header"),
        (f"{HEADER}\n", "has no rows"),
        (
            f"{HEADER}\n{GOOD}\n{GOOD}\n",
            "line 3: crop 4, label mito is listed twice (first in line 2)",
        ),
        (f"{HEADER}\n{GOOD},1\n", "line 2: 7 fields"),
        (f"{HEADER}\n{GOOD.replace('4,', 'x,', 1)}\n", "crop_name 'x'"),
        (f"{HEADER}\n{GOOD.replace('mito', '../mito')}\n", "class_label '../mito'"),
        (f"{HEADER}\n{GOOD.replace('jrc_a-1', 'a/b')}\n", "dataset 'a/b'"),
        (f"{HEADER}\n{GOOD.replace('1.74', '-1.74')}\n", "voxel sizes are positive"),
        (f"{HEADER}\n{GOOD.replace('600', '0')}\n", "shapes are positive"),
        (f"{HEADER}\n{GOOD.replace('[600;500;400]', '[600;500]')}\n", "three axes"),
        (f"{HEADER}\n{GOOD.replace('600', '6.5')}\n", "'[6.5;500;400]' must hold whole numbers"),
        (f"{HEADER}\n{GOOD.replace('600', 'nan')}\n", "'[nan;500;400]' must hold whole numbers"),
        (f"{HEADER}\n{GOOD.replace('600', '-600')}\n", "shapes are positive"),
        (f"{HEADER}\n{GOOD.replace('600', '6000000000')}\n", "line 2: shape [6000000000;500;400]"),
        (f"{HEADER}\n{GOOD.replace('1.74', 'nan')}\n", "voxel sizes are positive"),
        (f"{HEADER}\n{GOOD.replace('1.74', '0')}\n", "voxel sizes are positive"),
        (f"{HEADER}\n{GOOD.replace('1.74', '')}\n", "'[;2.0;2.0]' must hold numbers"),
        (f"{HEADER}\n{GOOD.replace('7599.0', 'inf')}\n", "translations are finite"),
        (
            f"{HEADER}\n{GOOD}\n\n  \n{GOOD}\n",
            "line 5: crop 4, label mito is listed twice (first in line 2)",
        ),
        (f"{HEADER}\n{GOOD}\n{'x' * 200_000}\n", "line 3: not CSV"),
        (f"{HEADER}\n{GOOD.replace('[600;500;400]', '600;500;400')}\n", "[z;y;x]"),
        (
            f"{HEADER}\n{GOOD}\n{GOOD.replace('jrc_a-1', 'jrc_b-1').replace('mito', 'er')}\n",
            "crop 4 belongs to dataset jrc_b-1 here and to jrc_a-1",
        ),
    ],
)
def test_errors_name_file_and_line(text, message):
    with pytest.raises(InputError) as error:
        parse_manifest(text, "m.csv")
    assert str(error.value).startswith("m.csv")
    assert message in str(error.value)


@pytest.mark.parametrize("ending", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("start", ["", "\ufeff"])
@pytest.mark.parametrize("space", ["", " "])
def test_whitespace_and_line_ends_do_not_matter(ending, start, space, tmp_path):
    lines = [line.replace(",", space + "," + space) for line in (HEADER, GOOD)]
    text = start + ending.join([*lines, space, ""])
    path = tmp_path / "m.csv"
    path.write_bytes(text.encode())
    assert read_manifest(path) == parse_manifest(text, "m.csv")
    assert read_manifest(path) == parse_manifest(f"{HEADER}\n{GOOD}\n", "m.csv")


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """A folder in place of the toolbox's package, which fails when it is imported."""
    package = tmp_path / "site/cellmap_segmentation_challenge"
    (package / "utils").mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    monkeypatch.syspath_prepend(tmp_path / "site")
    return package


def test_manifest_of_the_installed_toolbox_is_used(installed, tmp_path):
    with pytest.raises(InputError, match="is installed but has no utils/test_crop_manifest.csv"):
        local_manifest(TOOLBOX, tmp_path / "inputs")
    (installed / "utils/test_crop_manifest.csv").write_text(f"{HEADER}\n{GOOD}\n")
    path = local_manifest(TOOLBOX, tmp_path / "inputs")
    assert path == installed / "utils/test_crop_manifest.csv"
    assert len(read_manifest(path)) == 1


def test_missing_toolbox_is_an_error(monkeypatch, tmp_path):
    monkeypatch.setattr("sys.path", [str(tmp_path)])
    with pytest.raises(InputError, match="which is not installed: install it, or give"):
        local_manifest(TOOLBOX, tmp_path / "inputs")


def test_unreadable_manifests_are_refused(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        read_manifest(tmp_path / "none.csv")
    with pytest.raises(InputError, match="cannot be read"):
        read_manifest(tmp_path)
    (tmp_path / "latin.csv").write_bytes(b"\xe9\xff")
    with pytest.raises(InputError, match="UTF-8"):
        read_manifest(tmp_path / "latin.csv")


def test_a_url_is_downloaded_once(tmp_path):
    source = tmp_path / "served.csv"
    source.write_text(f"{HEADER}\n{GOOD}\n")
    kept = local_manifest(source.as_uri(), tmp_path / "inputs")
    source.unlink()
    assert local_manifest(source.as_uri(), tmp_path / "inputs") == kept
    assert len(read_manifest(kept)) == 1
    with pytest.raises(InputError, match="cannot be downloaded"):
        local_manifest(source.as_uri(), tmp_path / "elsewhere")


def test_real_manifest_of_the_challenge_is_read(shared):
    rows = read_manifest(shared / "data/challenge/test_crop_manifest.csv")
    assert len(rows) == 413
    assert len({row.crop for row in rows}) == 16
