"""Scores of a submission by the official evaluator's own code."""

from __future__ import annotations

import multiprocessing
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cellmap_pipeline.crop_label import CropLabel
from cellmap_pipeline.errors import InputError
from cellmap_pipeline.submission.official_toolbox import (
    MANIFEST,
    ZIP,
    run_toolbox,
    work_in_process,
)

Scores = dict[str, Any]


def score_officially(
    path: str | Path,
    truth: str | Path,
    manifest: Sequence[CropLabel],
    workers: int = 1,
    memory_gb: float | None = None,
) -> Scores:
    """Compute the scores of a submission with the code of the official toolbox.

    It raises as `run_toolbox`.

    Parameters
    ----------
    path
        Path of the zip; it is unpacked in a temporary folder next to it.
    truth
        Folder (zarr 2) with `crop{id}/{label}`; nothing is written there.
    manifest
        Labels with their grids, which replace the toolbox's own manifest.
    workers
        Number of threads that measure distances. Labels are scored one after the other, since the
        toolbox cannot keep several of them within a memory limit.
    memory_gb
        Memory of the process that scores, in GiB; by default all of the machine's.

    Returns
    -------
    `label_scores` and the overall scores, as the toolbox names them.

    Raises
    ------
    InputError
        The toolbox stops at the submission, or it or the ground truth is not of the right kind.
    """
    for name, given, expected in (("submission", path, "zip"), ("ground truth", truth, "folder")):
        if Path(given).is_dir() != (expected == "folder"):
            raise InputError(
                f"{given}: the official toolbox takes the {name} as a {expected}: give it as one, "
                "or omit --official"
            )
    result = run_toolbox(
        "cellmap_pipeline.submission.official_scorer",
        path,
        manifest,
        part="scorer",
        arguments=[str(Path(truth).resolve())],
        environment={"MAX_WORKERS": "1", "PER_INSTANCE_THREADS": str(workers)},
        memory_gb=memory_gb,
    )
    if "error" in result:
        raise InputError(
            f"{path}: the official toolbox stops while it scores ({result['error']}): see whether "
            "`cellmap-pipeline check --official` reports a label, whether the manifest lists all "
            "labels of the ground truth, and whether the memory suffices (--memory-gb)"
        )
    return result


def _score(folder: Path, truth: str) -> Scores:
    """Score with the toolbox; return its scores, or the `error` at which it stops."""
    # Imported only in this process: the import takes long and configures logging.
    from cellmap_segmentation_challenge.evaluate import score_submission as score
    from cellmap_segmentation_challenge.utils.crops import TEST_CROPS_DICT, TestCropRow

    rows = [TestCropRow.from_csv_row(r) for r in (folder / MANIFEST).read_text().splitlines()[1:]]
    TEST_CROPS_DICT.clear()
    TEST_CROPS_DICT.update({(row.id, row.class_label): row for row in rows})
    # Other start methods would import the toolbox's own manifest again.
    multiprocessing.set_start_method("fork", force=True)
    try:
        scores = score(str(folder / ZIP), truth_path=str(_linked_truth(Path(truth), folder)))
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"}
    names = [name for name in scores if name.startswith("overall_")]
    labels = {
        label: {name: value if value is None else float(value) for name, value in score.items()}
        for label, score in scores["label_scores"].items()
    }
    return {"label_scores": labels} | {name: float(scores[name]) for name in names}


def _linked_truth(truth: Path, folder: Path) -> Path:
    """Link the labels of the ground truth, where the toolbox may add files to their groups."""
    for crop in truth.iterdir():
        if crop.is_dir():
            (folder / "truth" / crop.name).mkdir(parents=True)
            for file in crop.iterdir():
                (folder / "truth" / crop.name / file.name).symlink_to(file)
    return folder / "truth"


if __name__ == "__main__":
    work_in_process(_score)
