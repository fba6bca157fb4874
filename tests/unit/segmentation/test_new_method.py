"""Configuration, tuning and segmentation of a new method follow from one class."""

import numpy as np
import pytest
from pydantic import Field

from cellmap_pipeline.config.reference import documents
from cellmap_pipeline.errors import InputError
from cellmap_pipeline.geometry import Grid
from cellmap_pipeline.io.volumes import Volume, create
from cellmap_pipeline.segmentation.blockwise.segment import segment_blocks
from cellmap_pipeline.segmentation.landscapes import Landscape
from cellmap_pipeline.segmentation.method_settings import check_settings, complete, search_spaces
from cellmap_pipeline.segmentation.methods import METHODS, Method, SearchSpace
from cellmap_pipeline.segmentation.probabilities import Probabilities
from cellmap_pipeline.segmentation.segment import segment
from cellmap_pipeline.segmentation.settings_models import FINDS_FRAGMENTS, InstanceSettings, Number

VOXELS = (8.0, 8.0, 8.0)


class BandSettings(InstanceSettings):
    """Settings of the method below."""

    highest: Number = Field(
        1.0, ge=0, le=1, description="highest probability", json_schema_extra=FINDS_FRAGMENTS
    )


class Band(Method):
    """Connected components of a band of probabilities."""

    name = "band"
    settings_model = BandSettings
    splits = False

    def own_search_space(self) -> SearchSpace:
        return {"highest": [0.7, 0.8]}

    def landscape(self, label, channels, voxel_size, settings):
        found = super().landscape(label, channels, voxel_size, settings)
        inside = found.inside & (channels[label] <= 255 * settings["highest"])
        return Landscape(inside, inside)


@pytest.fixture
def band(monkeypatch):
    monkeypatch.setitem(METHODS, "band", Band())
    return METHODS["band"]


def test_configuration_tuning_and_reference_include_a_new_method(band):
    checked = check_settings("mito", {"method": "band", "highest": "0.9"})
    assert checked == {"method": "band", "highest": 0.9}
    with pytest.raises(InputError, match="highest must be a number from 0 to 1, not 2"):
        check_settings("mito", {"method": "band", "highest": 2})
    with pytest.raises(InputError, match="highest belongs to the method band"):
        check_settings("mito", {"method": "connected_components", "highest": 0.5})
    assert search_spaces("mito", [], VOXELS)["band"]["highest"] == [0.7, 0.8]
    (reference,) = (text for path, text in documents().items() if path.name == "configuration.md")
    assert "| `band` (instances) | `highest` | 1 | 0 to 1 | highest probability |" in reference


def test_new_method_segments_in_memory_and_in_blocks(band, tmp_path):
    probability = np.zeros((20, 20, 20), np.uint8)
    probability[2:8, 2:8, 2:18] = 160
    probability[2:8, 2:8, 9:11] = 250
    settings = complete("mito", {"method": "band", "highest": 0.8, "min_size_nm3": 0}, [])
    labels = segment("mito", {"mito": probability}, VOXELS, settings)
    assert labels.max() == 2 and not labels[2:8, 2:8, 9:11].any()
    grid = Grid(VOXELS, (0, 0, 0), probability.shape)
    create(tmp_path / "p/mito", grid, "uint8").write(probability).result()
    predicted = Probabilities("mito", grid, [[tmp_path / "p/mito"]])
    segment_blocks(predicted, settings, tmp_path / "s", {}, size=64)
    (level,) = Volume.open(tmp_path / "s").levels
    np.testing.assert_array_equal(level.read((0, 0, 0), grid.shape), labels)
