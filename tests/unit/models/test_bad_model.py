"""Options with which a network cannot be built: ``check_inputs`` finds them."""

import pytest

from tests.support.spoiled import (
    CHECK,
    Row,
    assert_refused,
)

ROWS = {
    "a model that cannot be built": Row(
        CHECK,
        "training tiny: model: monai_unetr cannot be built with … for patches of [32, 32, 32] "
        "(…): see docs/configuration.md for its options",
        lambda folder: folder.configure_training(
            model={"architecture": "monai_unetr", "num_heads": 7}
        ),
    ),
}


@pytest.mark.parametrize("row", ROWS.values(), ids=ROWS)
def test_bad_models_are_refused(folder, row):
    assert_refused(folder, row)
