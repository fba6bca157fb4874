"""Compiled functions."""

import numpy as np

from cellmap_pipeline.run.compiled import compiled


def total(values):
    result = 0.0
    for value in values:
        result += value
    return result


def test_a_function_is_compiled_where_nothing_can_be_kept():
    # Numba finds no place for the code of a function that lies in no file, as in no folder that it
    # may write to.
    space = {}
    exec("def doubled(values):\n    return values * 2", space)
    assert compiled(space["doubled"])(np.arange(3)).tolist() == [0, 2, 4]


def test_a_function_gives_the_same_as_in_python():
    values = np.arange(5.0)
    assert compiled(total)(values) == total(values) == 10
