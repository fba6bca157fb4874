"""Where the results of a run lie, below its `output`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cellmap_pipeline.errors import InputError
from cellmap_pipeline.plan.sources import AVERAGE

SUBMISSION = Path("submission.zip")
# Folders of the output that belong to no training.
RESERVED_FOLDERS = frozenset(
    {
        "segmentations", "figures", "logs", "benchmarks", "inputs", "checked", "fetched",
        "raw_statistics", AVERAGE,
        # The split and its folds are checked under these names.
        "split", "folds",
    }
)  # fmt: skip


@dataclass(frozen=True)
class ResultPaths:
    """The paths of all results.

    Each argument of a method defaults to its Snakemake wildcard: without arguments a method
    returns the pattern that a rule declares, with arguments the path of one result.

    Attributes
    ----------
    output
        The folder of all results.
    """

    output: Path

    @property
    def split(self) -> Path:
        """Which of all labeled crops are held out."""
        return self.output / "split.csv"

    @property
    def folds(self) -> Path:
        """The fold of each labeled crop."""
        return self.output / "folds.csv"

    def datasplit(self, network: str = "{network}") -> Path:
        """The crops of a network, in the challenge's CSV format."""
        return self.output / network / "datasplit.csv"

    def datasplit_summary(self, network: str = "{network}") -> Path:
        """Number of crops and labeled volume per class of a data split."""
        return self.output / network / "datasplit_summary.csv"

    def raw_statistics(self, dataset: str = "{dataset}") -> Path:
        """Statistics of the raw of a dataset with test crops."""
        return self.output / "raw_statistics" / f"{dataset}.json"

    def training_raw_statistics(self, network: str = "{network}") -> Path:
        """Statistics of all raw that a network trains and validates on."""
        return self.output / network / "raw_statistics.json"

    def teacher_predictions(self, network: str = "{network}") -> Path:
        """The folder of what a network's teacher predicts around its training crops."""
        return self.output / network / "teacher_predictions"

    def pseudo_labels(self, network: str = "{network}") -> Path:
        """The folder of what a network learns around its training crops."""
        return self.output / network / "pseudo_labels"

    def checkpoint(self, network: str = "{network}") -> Path:
        """The exported checkpoint of a network."""
        return self.output / network / "model.ckpt"

    def training_state(self, network: str = "{network}") -> Path:
        """The folder from which an interrupted training of a network resumes."""
        return self.output / network / "training"

    def metrics(self, network: str = "{network}") -> Path:
        """The table with a row per epoch of a network's training."""
        return self.training_state(network) / "metrics.csv"

    def calibration(self, training: str = "{training}") -> Path:
        """The measured speed of a training's network."""
        return self.output / training / "calibration.json"

    def predictions(
        self, training: str = "{training}", dataset: str = "{dataset}", crop: int | str = "{crop}"
    ) -> Path:
        """The folder of a training's predictions for a test crop, a group per channel."""
        return self.output / training / "predictions" / dataset / f"crop{crop}"

    def prediction_part(
        self,
        part: int | str = "{part}",
        parts: int | str = "{parts}",
        training: str = "{training}",
        dataset: str = "{dataset}",
        crop: int | str = "{crop}",
    ) -> Path:
        """One part of a test crop's predictions, where several jobs predict the crop."""
        whole = self.predictions(training, dataset, crop)
        return whole.with_name(f"{whole.name}.part{part}of{parts}")

    def validation_predictions(self, network: str = "{network}") -> Path:
        """The folder of a network's predictions for its validation crops."""
        return self.output / network / "validation" / "predictions"

    def validation_scores(self, source: str = "{source}") -> Path:
        """Scores of a source on validation crops."""
        return self.output / source / "validation" / "scores.json"

    def tuned_settings(self, source: str = "{source}") -> Path:
        """Post-processing settings that were tuned for a source."""
        return self.output / source / "validation" / "postprocess.json"

    def existing_scores(self) -> tuple[dict[str, Path], Path | None]:
        """Find scores: by source those on validation crops, and the submission's, if any.

        Raises
        ------
        InputError
            There are no scores at all.
        """
        found = sorted(self.output.glob(str(ResultPaths(Path()).validation_scores("*"))))
        by_source = {path.relative_to(self.output).parts[0]: path for path in found}
        if not by_source and not self.scores.is_file():
            raise InputError(
                f"{self.output} has no scores: neither {self.scores.name} nor "
                "{training}/validation/scores.json; give the folder that `output` names"
            )
        return by_source, self.scores if self.scores.is_file() else None

    @property
    def segmentations(self) -> Path:
        """The folder of all final labels, `{dataset}/crop{crop}/{label}`."""
        return self.output / "segmentations"

    def segmentation(
        self, dataset: str = "{dataset}", crop: int | str = "{crop}", label: str = "{label}"
    ) -> Path:
        """The final label of a test crop."""
        return self.segmentations / dataset / f"crop{crop}" / label

    def figure(self, name: str) -> Path:
        """A figure of the report."""
        return self.output / "figures" / name

    def log(self, job: str) -> Path:
        """The log of a job: `RULE`, or `RULE/WILDCARDS`."""
        return self.output / "logs" / f"{job}.log"

    def benchmark(self, job: str) -> Path:
        """Time and memory of a job: `RULE`, or `RULE/WILDCARDS`."""
        return self.output / "benchmarks" / f"{job}.tsv"

    def check_marker(self, name: str, fingerprint: str) -> Path:
        """An empty file: the inputs of `name` were checked for the settings of that fingerprint."""
        return self.output / "checked" / f"{name}.{fingerprint}"

    def fetched(self, crop: int | str = "{crop}") -> Path:
        """The list of files that were fetched for a crop."""
        return self.output / "fetched" / f"crop{crop}.json"

    @property
    def all_fetched(self) -> Path:
        """An empty file: all crops were fetched."""
        return self.output / "checked" / "fetched"

    @property
    def inputs(self) -> Path:
        """The folder of downloaded tables: the manifest, the class table and the crop table."""
        return self.output / "inputs"

    @property
    def logs(self) -> Path:
        """The folder of all logs."""
        return self.output / "logs"

    @property
    def benchmarks(self) -> Path:
        """The folder of time and memory of all jobs."""
        return self.output / "benchmarks"

    @property
    def checked_inputs(self) -> Path:
        """The problems that the check of the inputs found."""
        return self.output / "check_inputs.json"

    @property
    def selection(self) -> Path:
        """Which source provides which label."""
        return self.output / "selection.csv"

    @property
    def submission_check(self) -> Path:
        """The problems that reading back the submission found."""
        return self.output / "submission_check.json"

    @property
    def scores(self) -> Path:
        """The scores of the submission."""
        return self.output / "scores.json"

    @property
    def scores_table(self) -> Path:
        """The scores of the submission, a row per label and crop."""
        return self.output / "scores.csv"

    @property
    def leaderboard(self) -> Path:
        """The scores of all sources side by side."""
        return self.output / "leaderboard.csv"
