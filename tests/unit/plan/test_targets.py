"""Targets on the command line that no rule makes."""

import pytest

from cellmap_pipeline.errors import InputError
from cellmap_pipeline.plan.targets import check_target


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("crop1", None),
        ("results/fine/predictions/a/crop1", None),
        ("results/segmentations/a/crop1/mito", None),
        ("results/figures/crops/b/crop2.jpg", None),
        ("results/fetched/crop99.json", None),  # It may be of a training crop.
        ("all", None),
        ("", None),
        ("crop99", "target crop99: there is no crop 99 in .*m.csv, only 1, 2$"),
        ("results/segmentations/a/crop99/mito", "there is no crop 99"),
        ("results/figures/crops/a/crop99.jpg", "there is no crop 99"),
        ("results/fine/predictions/b/crop1", "crop 1 belongs to the dataset 'a'"),
        ("./results/fin/predictions/a/crop1", r"'fin' is not among .* \(did you mean 'fine'\?\)"),
        ("results/fine/predictions/b/crop2", "training 'fine' predicts nothing of crop 2"),
        ("results/segmentations/a/crop1/er", "of crop 1 only mito, nuc are written, not 'er'"),
        ("results/coarse/model.ckpt", None),
        ("results/fine/validation/scores.json", None),
        ("results/other/validation/scores.json", None),
        ("results/figures/validation/coarse.png", None),
        ("results/fin/model.ckpt", r"'fin' is not among `trainings` \(did you mean 'fine'\?\): "),
        ("results/other/model.ckpt", "'other' is not among `trainings`: fine, coarse$"),
        ("results/figures/training/fin.png", "'fin' is not among `trainings`"),
        ("results/fine/fold0/model.ckpt", "'fine' has the networks fine, not 'fine/fold0'$"),
        (
            "results/nope/validation/scores.json",
            "'nope' is not among the sources of this submission's labels: fine, coarse, other$",
        ),
        ("results/figures/validation/average.png", "'average' is not among the sources"),
        ("score", "there is no ground truth to score against: set `ground_truth`"),
        ("scores.json", "there is no ground truth to score against"),
        ("results/figures/scores.png", "there is no ground truth to score against"),
    ],
)
def test_targets_that_no_rule_makes_are_refused(plan, target, message):
    other = {"path": "p/{dataset}/{crop}/{label}", "classes": ["nuc"]}
    made = plan(output="results", predictions={"other": other})
    if message is None:
        check_target(made, target)
    else:
        with pytest.raises(InputError, match=message):
            check_target(made, target)


def test_targets_of_omitted_crops_are_refused(plan):
    made = plan(submission={"crops": [1]})
    with pytest.raises(InputError, match="`submission` leaves crop 2 out"):
        check_target(made, "crop2")
