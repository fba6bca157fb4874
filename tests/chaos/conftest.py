"""Options of the chaos test."""

import random

import pytest


def pytest_addoption(parser):
    parser.addoption("--kills", type=int, default=24, help="number of processes to kill")
    parser.addoption(
        "--seed", type=int, default=0, help="seed for which processes are killed, and when"
    )


@pytest.fixture
def kills(request):
    return request.config.getoption("kills")


@pytest.fixture
def rng(request):
    return random.Random(request.config.getoption("seed"))
