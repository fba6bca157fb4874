import pytest


@pytest.fixture
def mock(repo_root, monkeypatch):
    """The generator of data of the challenge's size."""
    monkeypatch.syspath_prepend(repo_root / "benchmarks")
    import challenge_mock

    return challenge_mock
