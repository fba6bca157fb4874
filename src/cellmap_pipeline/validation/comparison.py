"""Comparison of the sources of a label on the crops that they share, and what it can tell apart.

The standard error of a difference is a bootstrap over the crops. Scores are those of crops that
settings were not tuned on, where there were enough crops for that (`validation.validate`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from cellmap_pipeline.scoring.rules.base import Counts, Rules

# A source is clearly worse than the best one if it lies more than this many standard errors below.
# A lower number lets the wrong source win more often, a higher one leaves more choices open. In
# benchmarks/choices.py with 25 crops, both are rare from 1 to 1.6, for two and three trainings.
CLEAR_STANDARD_ERRORS = 1.3
N_RESAMPLES = 1_000
SEED = 0
# Crops with the label that a standard error needs: of fewer, the bootstrap would be far too small.
MIN_CROPS = 3
# With fewer crops no error is known, but averaging a good source with a useless one would do harm:
# this standard deviation between crops is assumed, of a score or of the difference of two.
ASSUMED_DEVIATION = 0.2


@dataclass(frozen=True)
class Comparison:
    """Scores of sources of a label on the same crops.

    Attributes
    ----------
    n_crops
        Number of crops that all sources have; 0 if these are none, or lack the label: then each
        source has the score of its own crops.
    scores
        Score of each source.
    best
        The source with the best score, of several the first one.
    errors
        Standard error of the difference of each other source to the best one; empty if too few
        crops with the label are shared to know it.
    contenders
        The best source and those that are not clearly worse, in the order of the sources.
    is_open
        Whether noise could turn the choice of the best source.
    """

    n_crops: int
    scores: Mapping[str, float]
    best: str
    errors: Mapping[str, float]
    contenders: Sequence[str]
    is_open: bool


def compare(counts: Mapping[str, Mapping[str, Counts]], rules: Rules, instance: bool) -> Comparison:
    """Compare the sources of a label.

    Parameters
    ----------
    counts
        By source, the counts of each crop; there is at least one source.
    rules
        The evaluator's rules.
    instance
        Whether the label is an instance label.
    """
    shared = sorted(set.intersection(*(set(by_crop) for by_crop in counts.values())))
    n_shared = max(_n_with_label(by_crop, shared) for by_crop in counts.values())
    used = {name: shared if n_shared else sorted(by_crop) for name, by_crop in counts.items()}
    scores = {
        name: rules.score(sum((by_crop[crop] for crop in used[name]), Counts()), instance)
        for name, by_crop in counts.items()
    }
    best = max(scores, key=lambda name: scores[name])
    if n_shared >= MIN_CROPS:
        table = {name: [by_crop[crop] for crop in shared] for name, by_crop in counts.items()}
        errors = _bootstrap_errors(table, best, n_shared, rules, instance)
    elif n_shared:
        errors = dict.fromkeys(counts, ASSUMED_DEVIATION / math.sqrt(n_shared))
    else:
        inverse = {name: 1 / max(1, _n_with_label(counts[name], used[name])) for name in counts}
        errors = {
            name: ASSUMED_DEVIATION * math.sqrt(inverse[best] + inverse[name]) for name in counts
        }
    contenders = [
        name
        for name in counts
        if name == best or scores[best] - scores[name] <= CLEAR_STANDARD_ERRORS * errors[name]
    ]
    return Comparison(
        n_crops=len(shared) if n_shared else 0,
        scores=scores,
        best=best,
        errors={name: errors[name] for name in counts if name != best and n_shared >= MIN_CROPS},
        contenders=contenders,
        is_open=len(counts) > 1 and (len(contenders) > 1 or n_shared < MIN_CROPS),
    )


def _n_with_label(by_crop: Mapping[str, Counts], crops: Sequence[str]) -> int:
    return sum(by_crop[crop].tp + by_crop[crop].fn > 0 for crop in crops)


def _bootstrap_errors(
    counts: Mapping[str, Sequence[Counts]],
    best: str,
    n_with_label: int,
    rules: Rules,
    instance: bool,
) -> dict[str, float]:
    """Return the standard error of the difference of each source to the best one.

    The crops are drawn with replacement, the same for all sources. Draws without the label have no
    score, and are left out.

    Parameters
    ----------
    counts
        By source, the counts of the shared crops, in the same order.
    best
        The source with the best score.
    n_with_label
        Number of shared crops with the label.
    rules, instance
        As for `compare`.
    """
    table = np.array(
        [[(c.tp, c.fp, c.fn, c.score_sum) for c in crops] for crops in counts.values()]
    )
    n_crops = table.shape[1]
    random = np.random.default_rng(SEED)
    drawn = random.multinomial(n_crops, [1 / n_crops] * n_crops, N_RESAMPLES)
    sums = np.einsum("rc,scf->srf", drawn, table)
    sums = sums[:, (sums[0, :, 0] + sums[0, :, 2]) > 0]
    scores = {
        name: np.array([rules.score(Counts(*one), instance) for one in of_source.tolist()])
        for name, of_source in zip(counts, sums, strict=True)
    }
    # The crops of a bootstrap vary about their own mean, by n − 1 to n less than all crops do.
    factor = math.sqrt(n_with_label / (n_with_label - 1))
    return {name: factor * float(np.std(scores[best] - scores[name])) for name in counts}
