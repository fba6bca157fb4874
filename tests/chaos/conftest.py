"""Options of the test that kills."""

import random

import pytest


def pytest_addoption(parser):
    parser.addoption("--kills", type=int, default=24, help="how many processes are killed")
    parser.addoption("--seed", type=int, default=0, help="draws what is killed, and when")


@pytest.fixture
def kills(request):
    return request.config.getoption("kills")


@pytest.fixture
def rng(request):
    return random.Random(request.config.getoption("seed"))
