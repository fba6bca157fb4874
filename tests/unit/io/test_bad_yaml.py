"""Errors in YAML files: each ends the run while Snakemake parses."""

import pytest

from tests.support.spoiled import (
    CONFIG,
    PARSING,
    Row,
    append,
    assert_refused,
)

BOMB = "a: &a [1, 1, 1, 1, 1, 1, 1, 1]\n" + "".join(
    f"{new}: &{new} [{', '.join([f'*{old}'] * 9)}]\n"
    for old, new in zip("abcde", "bcdef", strict=True)
)


ROWS = {
    "tabs": Row(
        PARSING,
        f"{CONFIG} is not YAML in line …: it is indented with a tab: indent with spaces instead",
        lambda folder: append(folder.config, "submission:\n\tcrops: all\n"),
    ),
    "a YAML bomb": Row(
        PARSING,
        f"{CONFIG}: with its aliases (`*name`) written out it holds more than 100,000 "
        "values: write plain keys and values",
        lambda folder: append(folder.config, BOMB),
    ),
    "an alias that holds itself": Row(
        PARSING,
        f"{CONFIG} is not YAML: Circular reference detected: correct it",
        lambda folder: append(folder.config, "a: &a [*a]\n"),
    ),
    "YAML with code": Row(
        PARSING,
        f"{CONFIG} is not YAML in line …: write plain values, without `!`",
        lambda folder: append(
            folder.config, "output: !!python/object/apply:os.system ['touch ran']\n"
        ),
    ),
    "a template": Row(
        PARSING,
        f"{CONFIG}: `__use_yte__` makes it a template, which may run Python: leave it out",
        lambda folder: append(folder.config, "__use_yte__: true\n"),
    ),
    "truncated YAML": Row(
        PARSING,
        f"{CONFIG} is not YAML in line …: …: correct it",
        lambda folder: append(folder.config, "submission: {crops: [1, 2\n"),
    ),
    "a key twice": Row(
        PARSING,
        f"{CONFIG} is not YAML in line …: the key 'trainings' is defined twice: remove one of the "
        "two",
        lambda folder: append(folder.config, "trainings: [other]\n"),
    ),
    "a configuration that is not UTF-8": Row(
        PARSING,
        f"{CONFIG} line … is not UTF-8 text: save the file with the encoding UTF-8",
        lambda folder: folder.config.write_bytes(
            folder.config.read_bytes() + b"output: r\xe9sultats\n"
        ),
    ),
    "a huge file as configuration": Row(
        PARSING,
        f"{CONFIG} is larger than 1,000,000 bytes, too large for a configuration: is it another "
        "file?",
        lambda folder: append(folder.config, "#" * 2_000_000),
    ),
    "a list as configuration": Row(
        PARSING,
        f"{CONFIG} must hold keys and values: docs/configuration.md lists them",
        lambda folder: folder.config.write_text("[a, b]"),
    ),
    "an empty configuration": Row(
        PARSING,
        f"{CONFIG} must hold keys and values: docs/configuration.md lists them",
        lambda folder: folder.config.write_text("# nothing\n"),
    ),
    "no configuration": Row(
        PARSING,
        f"{CONFIG} does not exist (looked in …)",
        lambda folder: folder.config.unlink(),
    ),
}


@pytest.mark.parametrize("row", ROWS.values(), ids=ROWS)
def test_bad_yaml_is_refused(folder, row):
    assert_refused(folder, row)
