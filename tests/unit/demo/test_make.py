"""Layout, metadata and content of the demo data."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import zarr
from numpy.typing import NDArray

from cellmap_pipeline.classes import is_instance
from cellmap_pipeline.data.manifest import read_manifest
from cellmap_pipeline.demo.image import LABELS, draw_scene
from cellmap_pipeline.demo.make import (
    FULL,
    MANIFEST,
    PLANS,
    SMALL,
    TRUTH,
    UNKNOWN,
    CropPlan,
    DatasetPlan,
    crop_scene,
    drift_fields,
    make_demo,
)
from cellmap_pipeline.errors import InputError
from cellmap_pipeline.geometry import Grid
from cellmap_pipeline.io.labels import LabelVolume
from cellmap_pipeline.io.volumes import Volume
from tests.support.bands import best_band_iou


@pytest.fixture
def demo(small_data: Path) -> Path:
    return small_data


def _crops(plans: tuple[DatasetPlan, ...]) -> Iterator[tuple[DatasetPlan, CropPlan]]:
    return ((plan, crop) for plan in plans for crop in plan.crops)


def _recon(root: Path, plan: DatasetPlan) -> Path:
    return root / plan.name / f"{plan.name}.zarr" / "recon-1"


def _label(root: Path, plan: DatasetPlan, crop: CropPlan, name: str) -> Path:
    return _recon(root, plan) / f"labels/groundtruth/crop{crop.number}/{name}"


def _files(root: Path) -> dict[str, bytes]:
    return {
        str(p.relative_to(root)): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()
    }


# Plans


@pytest.mark.parametrize("plans", PLANS.values(), ids=PLANS.keys())
def test_regions_lie_within_their_volume_and_do_not_touch(plans: tuple[DatasetPlan, ...]) -> None:
    for plan in plans:
        regions = [plan.region(crop)[0] for crop in plan.crops]
        for i, region in enumerate(regions):
            assert plan.grid.covers(region)
            # Not even touching, because tissue does not continue from one to the next.
            padded = region.padded((plan.chunk,) * 3)
            assert not any(padded.overlaps(other) for other in regions[:i])


@pytest.mark.parametrize(("plan", "crop"), list(_crops(FULL + SMALL)))
def test_crops_have_context_and_align_with_both_levels(plan: DatasetPlan, crop: CropPlan) -> None:
    region, own = plan.region(crop)[0], plan.crop_grid(crop)
    assert region.covers(own.padded((plan.padding,) * 3))
    start = plan.grid.offset(own)
    assert start is not None
    assert all(s % 2 == 0 and n % 2 == 0 for s, n in zip(start, crop.shape, strict=True))


def test_full_demo_covers_different_kinds_of_crops() -> None:
    training = [crop for _, crop in _crops(FULL) if not crop.test]
    test = [(plan, crop) for plan, crop in _crops(FULL) if crop.test]
    assert len(training) >= 8 and len({c.shape for c in training}) == len(training)
    assert any(set(c.labels) != set(LABELS) for c in training)
    assert all(sum(name in c.labels for c in training) >= 3 for name in LABELS)
    assert any(c.unknown in c.labels for c in training)
    assert len({(plan.grid.voxel_size, c.level) for plan, c in test}) >= 2
    numbers = [crop.number for _, crop in _crops(FULL)]
    assert len(set(numbers)) == len(numbers)


# Files


def test_raw_is_ome_ngff_and_exists_only_around_crops(demo: Path) -> None:
    for plan in SMALL:
        raw = Volume.open(_recon(demo, plan) / "em/fibsem-uint8")
        fine, coarse = raw.levels
        assert fine.grid == plan.grid
        assert coarse.grid.voxel_size == tuple(2 * v for v in plan.grid.voxel_size)
        # Outer corners of the levels coincide, so the centers of their first voxels do not.
        np.testing.assert_allclose(coarse.grid.lower, fine.grid.lower, atol=1e-6)
        for level in raw.levels:
            assert level.metadata.stored["dtype"] == "|u1"
            assert level.metadata.stored["dimension_separator"] == "/"
            assert level.metadata.stored["compressor"]["cname"] == "zstd"
            missing = level.missing_chunks((0, 0, 0), level.grid.shape)
            assert missing.mean() > 0.3
        for crop in plan.crops:
            for level in raw.levels:
                box = level.grid.index_box(plan.region(crop)[0])
                assert not level.missing_chunks(*box).any()
                assert level.read(*box).min() > 0


def test_groups_are_zarr_groups_at_each_level(demo: Path) -> None:
    for plan, crop in _crops(SMALL):
        store = demo / plan.name / f"{plan.name}.zarr"
        below = ["", "recon-1", "recon-1/em", "recon-1/em/fibsem-uint8", "recon-1/labels"]
        if not crop.test:
            truth = f"recon-1/labels/groundtruth/crop{crop.number}"
            below += ["recon-1/labels/groundtruth", truth, f"{truth}/{crop.labels[0]}"]
        assert all(
            json.loads((store / b / ".zgroup").read_text())["zarr_format"] == 2 for b in below
        )


def test_downsampled_raw_is_the_mean(demo: Path) -> None:
    plan = SMALL[0]
    _, first = plan.region(plan.crops[0])
    raw = zarr.open(str(_recon(demo, plan) / "em/fibsem-uint8"), mode="r")
    fine = raw["s0"][tuple(slice(f, f + 2) for f in first)]
    coarse = raw["s1"][tuple(f // 2 for f in first)]
    assert abs(float(fine.mean()) - float(coarse)) <= 0.5


def test_labels_have_annotations(demo: Path) -> None:
    for plan, crop in _crops(SMALL):
        for name in crop.labels:
            path = _label(demo, plan, crop, name)
            if crop.test:
                assert not path.exists()
                continue
            group = zarr.open(str(path), mode="r")
            assert group.attrs["cellmap"]["annotation"]["class_name"] == name
            for level in ("s0", "s1"):
                voxels = group[level][:]
                annotation = group[level].attrs["cellmap"]["annotation"]
                kind = annotation["annotation_type"]["type"]
                encoding = annotation["annotation_type"]["encoding"]
                assert annotation["class_name"] == name
                assert encoding["absent"] == 0
                if is_instance(name):
                    assert kind == "instance_segmentation" and "present" not in encoding
                    assert voxels.dtype.kind == "u"
                else:
                    assert kind == "semantic_segmentation" and encoding["present"] == 1
                    assert set(np.unique(voxels)) <= {0, 1, UNKNOWN}
                counts = annotation["complement_counts"]
                assert counts["absent"] == (voxels == 0).sum() > 0
                assert ("unknown" in counts) == ("unknown" in encoding)
                if name == crop.unknown:
                    assert counts["unknown"] == (voxels == UNKNOWN).sum() > 0
                else:
                    assert counts.get("unknown", 0) == 0


def test_label_levels_agree_with_each_other_and_with_the_crop(demo: Path) -> None:
    for plan, crop in _crops(SMALL):
        if crop.test:
            continue
        for name in crop.labels:
            label = LabelVolume.open(_label(demo, plan, crop, name))
            fine, coarse = label.volume.levels
            assert fine.grid == plan.crop_grid(crop)
            assert plan.grid.offset(fine.grid) is not None
            np.testing.assert_allclose(coarse.grid.lower, fine.grid.lower, atol=1e-6)
            ids, known = label.read(coarse.grid)
            both, there = label.read(fine.grid)
            assert (ids > 0).any() and set(np.unique(ids)) <= set(np.unique(both))
            assert known.all() == there.all() == (name != crop.unknown)
            assert abs((ids > 0).mean() - (both > 0).mean()) < 0.05


def test_instances_are_numbered_from_1(demo: Path) -> None:
    for plan, crop in _crops(SMALL):
        for name in filter(is_instance, () if crop.test else crop.labels):
            ids = np.unique(zarr.open(str(_label(demo, plan, crop, name) / "s0"), mode="r")[:])
            ids = ids[ids != UNKNOWN]
            assert ids.tolist() == list(range(len(ids)))


def test_manifest_matches_the_ground_truth(demo: Path) -> None:
    rows = read_manifest(demo / MANIFEST)
    expected = {(c.number, name) for _, c in _crops(SMALL) if c.test for name in c.labels}
    assert {(row.crop, row.label) for row in rows} == expected
    plans = {crop.number: (plan, crop) for plan, crop in _crops(SMALL)}
    for row in rows:
        plan, crop = plans[row.crop]
        truth = zarr.open(str(demo / TRUTH / f"crop{row.crop}" / row.label), mode="r")
        assert row.dataset == plan.name and row.grid == plan.crop_grid(crop)
        assert Grid(truth.attrs["voxel_size"], truth.attrs["translation"], truth.shape) == row.grid
        assert truth.attrs["shape"] == list(row.grid.shape)
        assert (truth[:] > 0).any()
    assert sorted(p.name for p in (demo / TRUTH).glob("crop*")) == sorted(
        f"crop{n}" for n in {row.crop for row in rows}
    )


def test_same_seed_gives_the_same_bytes(demo: Path, tmp_path: Path) -> None:
    make_demo(tmp_path / "again", progress=False, size="small")
    assert _files(tmp_path / "again") == _files(demo)


def test_same_demo_is_kept_and_another_one_replaced(
    demo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = SMALL[0]
    # One crop is enough to test the folder.
    one = DatasetPlan(plan.name, plan.grid, plan.chunk, plan.padding, plan.crops[:1])
    monkeypatch.setitem(PLANS, "small", (one,))
    root = tmp_path / "data"
    make_demo(root, seed=1, progress=False, size="small")
    before, modified = _files(root), (root / "demo.json").stat().st_mtime_ns
    (tmp_path / "data.partial").mkdir()  # left by a killed process
    make_demo(root, seed=1, progress=False, size="small")
    assert (root / "demo.json").stat().st_mtime_ns == modified
    make_demo(root, seed=2, progress=False, size="small")
    after = _files(root)
    assert json.loads(after["demo.json"])["seed"] == 2
    assert after.keys() == before.keys() and after != before
    assert not (tmp_path / "data.partial").exists()


@pytest.mark.parametrize("name", ["mine.txt", "demo.json"])
def test_other_data_are_never_replaced(tmp_path: Path, name: str) -> None:
    file = tmp_path / "data" / name
    file.parent.mkdir()
    file.write_text("keep")
    with pytest.raises(InputError, match="not demo data"):
        make_demo(file.parent, progress=False, size="small")
    assert file.read_text() == "keep"


@pytest.mark.parametrize(
    "path",
    [
        "mine/mine.zarr/raw",
        "demo_cell-1/demo_cell-1.zarr/recon-1/labels/groundtruth/crop77/mito",
        "demo_cell-1/demo_cell-1.zarr/recon-1/labels/groundtruth/crop1/mine",
        "demo_cell-1/demo_cell-1.zarr/recon-1/em/mine",
        "demo_cell-1/demo_cell-1.zarr/recon-2/em/fibsem-uint8",
    ],
)
def test_data_beside_those_of_a_demo_are_not_lost(demo: Path, tmp_path: Path, path: str) -> None:
    root = tmp_path / "data"
    shutil.copytree(demo, root)
    file = root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("keep")
    make_demo(root, progress=False, size="small")  # The same demo, which stays.
    with pytest.raises(InputError, match="would be lost") as error:
        make_demo(root, seed=1, progress=False, size="small")
    assert path.split("/")[0] in str(error.value)
    assert file.read_text() == "keep"


# Content


@pytest.fixture(scope="module")
def drawn() -> list[tuple[CropPlan, NDArray, dict[str, NDArray]]]:
    """The full demo's crops without the raw around them (noise differs from the demo's own)."""
    result = []
    for plan, crop in _crops(FULL):
        rng = np.random.default_rng(crop.number)
        grid = plan.crop_grid(crop)
        result.append(
            (crop, *draw_scene(crop_scene(plan, crop, 0), grid, rng, drift_fields(plan, 0)))
        )
    return result


def test_annotated_labels_occur_in_their_crop(
    drawn: list[tuple[CropPlan, NDArray, dict[str, NDArray]]],
) -> None:
    for crop, _, labels in drawn:
        for name in crop.labels:
            assert (labels[name] > 0).mean() > 0.01, (crop.number, name)
    for name in ("mito", "ves"):
        assert sum(len(np.unique(labels[name])) - 1 for _, _, labels in drawn) > 50


def test_best_band_iou_of_known_cases() -> None:
    raw = np.array([[10, 20, 30, 40]], np.uint8)
    assert best_band_iou([raw], [raw > 15]) == 1
    assert best_band_iou([raw], [(raw == 20) | (raw == 40)]) == pytest.approx(2 / 3)


@pytest.mark.parametrize("name", LABELS)
def test_no_class_is_separable_by_a_threshold(
    name: str, drawn: list[tuple[CropPlan, NDArray, dict[str, NDArray]]]
) -> None:
    annotated = [(raw, labels[name] > 0) for crop, raw, labels in drawn if name in crop.labels]
    raw, truth = (list(part) for part in zip(*annotated, strict=True))
    assert best_band_iou(raw, truth) < 0.35


def test_labels_are_consistent(drawn: list[tuple[CropPlan, NDArray, dict[str, NDArray]]]) -> None:
    for _, _, labels in drawn:
        assert not labels["ne"][labels["nuc"] == 0].any()
        assert not labels["mito_mem"][labels["mito"] == 0].any()
        solid = [labels[name] > 0 for name in ("nuc", "mito", "ves", "pm")]
        assert np.mean(sum(s.astype(int) for s in solid) > 1) < 0.002


def test_tissue_does_not_depend_on_the_voxel_size() -> None:
    plan, crop = FULL[0], FULL[0].crops[3]
    scene, drift = crop_scene(plan, crop, 0), drift_fields(plan, 0)
    grid = plan.crop_grid(crop)
    fine = grid.at([4, 4, 4])
    _, labels = draw_scene(scene, grid, np.random.default_rng(0), drift)
    _, fine_labels = draw_scene(scene, fine, np.random.default_rng(0), drift)
    for name in crop.labels:
        share = (labels[name] > 0).mean()
        assert (fine_labels[name] > 0).mean() == pytest.approx(share, rel=0.05)
