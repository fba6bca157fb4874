"""The sets of rules by name."""

from __future__ import annotations

from cellmap_pipeline.errors import InputError, did_you_mean
from cellmap_pipeline.scoring.rules.base import Rules
from cellmap_pipeline.scoring.rules.panoptic_quality import PanopticQuality
from cellmap_pipeline.scoring.rules.rules_2026_06_30 import Rules20260630
from cellmap_pipeline.scoring.rules.rules_2026_07 import Rules202607

# Oldest first. To add a set, write a module beside this one and list its class here.
RULES: dict[str, Rules] = {
    rules.name: rules for rules in (Rules20260630(), Rules202607(), PanopticQuality())
}
NEWEST_RULES = [rules.name for rules in RULES.values() if rules.in_force][-1]


def rules_named(name: str) -> Rules:
    """Return the set of rules with a name.

    Raises
    ------
    InputError
        There is none.
    """
    if name not in RULES:
        suggestion = did_you_mean(name, list(RULES))
        raise InputError(
            f"{name!r} is not a set of scoring rules{suggestion}: choose one of {', '.join(RULES)}"
        )
    return RULES[name]
