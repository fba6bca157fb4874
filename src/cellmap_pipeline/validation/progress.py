"""Progress of tuning a label: one bar for all settings that are tried on all cases."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from tqdm import tqdm


class TuningProgress:
    """A bar of the voxels on which settings were tried, with their number and the time left.

    Most searches end before their limit, so the work of each step is a guess; when a step ends,
    what was expected of it is replaced by what it took.

    Parameters
    ----------
    description
        Description of the bar; None shows no bar.
    """

    def __init__(self, description: str | None = None) -> None:
        self._bar = tqdm(
            desc=description, total=0, unit="voxel", unit_scale=True, mininterval=1,
            disable=description is None,
        )  # fmt: skip
        self._tried = self._voxels = self._voxels_before = 0
        self._expected: list[int] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        where: TracebackType | None,
    ) -> None:
        self._bar.close()

    def expect(self, *steps: int) -> None:
        """Add the steps that follow: the voxels on which each is expected to try settings."""
        self._expected += steps
        self._show()

    def end_step(self) -> None:
        """End the first of the steps that are expected."""
        self._expected.pop(0)
        self._voxels_before = self._voxels
        self._show()

    def count(self, settings: int) -> None:
        """Count settings that are tried from now on."""
        self._tried += settings

    def advance(self, voxels: int) -> None:
        """Count the voxels of a case on which settings were tried."""
        self._voxels += voxels
        self._show()

    def _show(self) -> None:
        of_step = self._voxels - self._voxels_before
        left = [max(0, self._expected[0] - of_step), *self._expected[1:]] if self._expected else []
        self._bar.total = self._voxels + sum(left)
        self._bar.set_postfix(settings=self._tried, refresh=False)
        self._bar.update(self._voxels - self._bar.n)
