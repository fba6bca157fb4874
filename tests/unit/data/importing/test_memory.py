"""The memory of an import does not depend on the size of the volume."""

import subprocess
import sys

import imageio.v3 as iio
import numpy as np
import pytest

from cellmap_pipeline.data.importing import boxes
from cellmap_pipeline.data.importing.boxes import output_chunks, source_boxes
from cellmap_pipeline.geometry import Grid
from cellmap_pipeline.io.volumes import Volume

# 64 sections of 4 MiB, which are read one by one.
SECTIONS, SIDE, BOX_BYTES = 64, 2048, 2**22
# The growth is about 80 MB, with any number of sections.
MAX_GROWTH_BYTES = 2**27

IMPORT = """
import resource, sys
from pathlib import Path
from cellmap_pipeline.data.importing import boxes
from cellmap_pipeline.data.importing.sources.open_source import open_source
from cellmap_pipeline.data.importing.volume import import_raw

boxes.MAX_BOX_BYTES = int(sys.argv[3])
source = open_source(Path(sys.argv[1]))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
import_raw(source, Path(sys.argv[2]), (8, 8, 8))
print(1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before))
"""


def test_sections_larger_than_memory_are_imported(tmp_path):
    folder = tmp_path / "sections"
    folder.mkdir()
    section = np.zeros((SIDE, SIDE), np.uint8)
    section[1000:1100, 2000:2100] = 200
    iio.imwrite(folder / "0.png", section, compress_level=1)
    for number in range(1, SECTIONS):
        (folder / f"{number}.png").symlink_to(folder / "0.png")
    command = [sys.executable, "-c", IMPORT, str(folder), str(tmp_path / "a"), str(BOX_BYTES)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert int(done.stdout) < MAX_GROWTH_BYTES <= SECTIONS * section.nbytes / 2
    volume = Volume.open(tmp_path / "a/a.zarr/recon-1/em/fibsem-uint8")
    assert volume.levels[0].grid == Grid((8, 8, 8), (0, 0, 0), (SECTIONS, SIDE, SIDE))
    voxels = volume.levels[0].read((63, 1090, 1990), (64, 1110, 2010))[0]
    assert np.array_equal(voxels, section[1090:1110, 1990:2010])


class Stored:
    """The shape of a volume to import."""

    def __init__(self, shape, chunks, dtype="uint8"):
        self.shape, self.chunks, self.dtype = shape, chunks, np.dtype(dtype)


@pytest.mark.parametrize(
    ("source", "chunks"),
    [
        # Sections of up to 16 megapixels are read in slabs of cubic chunks.
        (Stored((3000, 4096, 4096), (1, 4096, 4096)), (64, 64, 64)),
        (Stored((3000, 4096, 4096), (1, 4096, 4096), "uint16"), (16, 128, 128)),
        (Stored((3000, 20000, 20000), (1, 20000, 20000)), (1, 512, 512)),
        (Stored((3000, 20000, 20000), (1, 1, 20000)), (64, 64, 64)),
        (Stored((3000, 20000, 20000), (100, 100, 100)), (64, 64, 64)),
        (Stored((10, 20, 30), (10, 20, 30)), (64, 64, 64)),
    ],
)
def test_boxes_cover_a_volume_in_bounded_memory(source, chunks):
    assert output_chunks(source) == chunks
    volume, end = 0, (0, 0, 0)
    for start, stop in source_boxes(source, chunks):
        shape = np.subtract(stop, start)
        assert np.prod(shape) * source.dtype.itemsize <= boxes.MAX_BOX_BYTES
        assert all(a % chunk == 0 for a, chunk in zip(start, chunks, strict=True))
        assert all(b % c == 0 or b == n for b, c, n in zip(stop, chunks, source.shape, strict=True))
        volume += int(np.prod(shape))
        end = max(end, stop)
    assert volume == np.prod(source.shape)
    assert end == source.shape


def test_chunks_of_the_source_are_decoded_once():
    source = Stored((3000, 20000, 20000), (128, 128, 128))
    (start, stop), *_ = source_boxes(source, output_chunks(source))
    assert np.subtract(stop, start)[0] == 128
    assert np.subtract(stop, start)[1] % 128 == 0
