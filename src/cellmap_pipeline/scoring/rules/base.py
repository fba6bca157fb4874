"""Interface of the sets of rules by which the evaluator scores labels."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class DistanceScale:
    """Cap and voxel size by which the distances in a crop are scored.

    Attributes
    ----------
    cap_nm
        The largest distance that is measured, half of the crop's shortest side.
    voxel_size
        nm, in the order of the crop's axes.
    """

    cap_nm: float
    voxel_size: tuple[float, ...]

    @classmethod
    def of(cls, shape: Sequence[int], voxel_size: Sequence[float]) -> DistanceScale:
        """Return the scale of a crop of `shape` voxels."""
        cap_nm = min(v * n / 2 for v, n in zip(voxel_size, shape, strict=True))
        return cls(cap_nm, tuple(voxel_size))


class ObjectMatches(Protocol):
    """The objects of a label and their matches, as `scoring.matching.MatchedObjects` has them."""

    @property
    def status(self) -> str:
        """`scored`, or why nothing matches."""

    @property
    def n_true(self) -> int:
        """Number of true objects."""

    @property
    def n_predicted(self) -> int:
        """Number of predicted objects."""

    @property
    def matches(self) -> Mapping[int, int]:
        """Number of the predicted object that each matched true object has, by its number."""

    @property
    def iou(self) -> NDArray[np.float32]:
        """Intersection over union of each pair of objects that share voxels."""

    @property
    def scale(self) -> DistanceScale:
        """Scale of the distances in the crop."""

    def distances(self, ids_collide: bool, cap_nm: float) -> NDArray[np.float64]:
        """Measure the distance of each true object to its match, nm; NaN if it has none."""


@dataclass(frozen=True)
class Counts:
    """Objects or voxels of a label, in one crop or the sum over several.

    Attributes
    ----------
    tp, fp, fn
        Number of matches, of predicted ones without a match and of true ones without a match.
    score_sum
        Sum of the scores of objects; 0 for voxels.
    """

    tp: int = 0
    fp: int = 0
    fn: int = 0
    score_sum: float = 0.0

    def __add__(self, other: Counts) -> Counts:
        return Counts(
            self.tp + other.tp,
            self.fp + other.fp,
            self.fn + other.fn,
            self.score_sum + other.score_sum,
        )


@dataclass(frozen=True)
class MatchEstimate:
    """How much objects count, estimated without their distances.

    Attributes
    ----------
    unmatched
        Score of an object without a match.
    worst_match
        Score of a match that shares no voxel; the score rises with the IoU, up to 1.
    min_iou
        Pairs match if their IoU is larger.
    counts_skipped_crops
        As in `Rules`.
    """

    unmatched: float
    worst_match: float
    min_iou: float = 0.0
    counts_skipped_crops: bool = False


class Rules(ABC):
    """A set of rules by which the evaluator scores labels.

    Attributes
    ----------
    name
        Name of the rules; for rules that are or were in force, the date since which they are.
    note
        Caution about them that is printed beside scores.
    explanation
        How classes are scored, for captions: a part of a sentence that begins with "for".
    in_force
        Whether the evaluator follows or followed them; False for a draft.
    counts_skipped_crops
        Whether all objects of a crop with too many of them count as wrong; otherwise the crop is
        ignored.
    without_collisions
        The same rules, but for the effect of colliding ids; None if no ids collide.
    object_measure, voxel_measure
        Names of the score of an instance class and of a semantic class.
    object_components
        Names of the components of an instance class's score, each with its caption.
    object_sum, voxel_sum
        Names of `Counts.score_sum` in `scores.json`; None if it is not used.
    """

    name: ClassVar[str]
    note: ClassVar[str] = ""
    explanation: ClassVar[str]
    in_force: ClassVar[bool] = True
    counts_skipped_crops: ClassVar[bool] = False
    without_collisions: ClassVar[Rules | None] = None
    object_measure: ClassVar[str]
    voxel_measure: ClassVar[str]
    object_components: ClassVar[Mapping[str, str]]
    object_sum: ClassVar[str]
    voxel_sum: ClassVar[str | None] = None

    @abstractmethod
    def count_objects(self, found: ObjectMatches, scales: Sequence[DistanceScale] = ()) -> Counts:
        """Count the objects of an instance label in a crop.

        Parameters
        ----------
        found
            The objects and their matches.
        scales
            Scales of several crops, by which the mean of each score is taken; by default that of
            the crop itself.
        """

    @abstractmethod
    def estimate_matches(self, scales: Sequence[DistanceScale]) -> MatchEstimate:
        """Estimate how much objects count, by the mean over the scales of crops."""

    @abstractmethod
    def count_voxels(self, tp: int, fp: int, fn: int) -> Counts:
        """Count a semantic label in a crop, from the numbers of its voxels."""

    @abstractmethod
    def score_objects(self, counts: Counts) -> dict[str, float]:
        """Score an instance class from its counts over all crops."""

    @abstractmethod
    def score_voxels(self, counts: Counts) -> dict[str, float]:
        """Score a semantic class from its counts over all crops."""

    @abstractmethod
    def overall_score(self, instance: Sequence[float], semantic: Sequence[float]) -> float:
        """Score a submission from the scores of its classes."""

    def object_fields(self, counts: Counts) -> dict[str, Any]:
        """Return the counts of an instance label as `scores.json` has them."""
        return {**_numbers(counts), self.object_sum: counts.score_sum}

    def voxel_fields(self, counts: Counts) -> dict[str, Any]:
        """Return the counts of a semantic label as `scores.json` has them."""
        score_sum = {self.voxel_sum: counts.score_sum} if self.voxel_sum else {}
        return {**_numbers(counts), **score_sum}

    def fields(self, counts: Counts, instance: bool) -> dict[str, Any]:
        """Return the counts of a label as `scores.json` has them."""
        return self.object_fields(counts) if instance else self.voxel_fields(counts)

    def counts(self, fields: Mapping[str, Any], instance: bool) -> Counts:
        """Return the counts that `fields` gave."""
        name = self.object_sum if instance else self.voxel_sum
        return Counts(fields["tp"], fields["fp"], fields["fn"], fields[name] if name else 0.0)

    def score_class(self, fields: Sequence[Mapping[str, Any]], instance: bool) -> dict[str, Any]:
        """Score a class from the fields of its crops.

        Returns
        -------
        `score_objects` or `score_voxels`, and `tp`, `fp` and `fn`.
        """
        counts = sum((self.counts(one, instance) for one in fields), Counts())
        score = self.score_objects if instance else self.score_voxels
        return score(counts) | _numbers(counts)

    def score(self, counts: Counts, instance: bool) -> float:
        """Score a class from its counts over all crops."""
        measures = self.score_objects(counts) if instance else self.score_voxels(counts)
        return measures[self.measure(instance)]

    def measure(self, instance: bool) -> str:
        """Return the name of the score of an instance class or of a semantic class."""
        return self.object_measure if instance else self.voxel_measure


def _numbers(counts: Counts) -> dict[str, int]:
    return {"tp": counts.tp, "fp": counts.fp, "fn": counts.fn}


def mean(values: Sequence[float]) -> float:
    """Return the mean of scores; 0 if there are none."""
    return sum(values) / len(values) if values else 0.0
