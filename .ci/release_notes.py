"""Print what CHANGELOG.md says of a release: `python3 .ci/release_notes.py v0.1.0`.

Needs Python 3.11 alone.
"""

import re
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def release_notes(changelog: str, version: str) -> str:
    """Return the section of a version, without its heading."""
    heading = rf"^## \[{re.escape(version)}\][^\n]*\n"
    found = re.search(rf"{heading}(.*?)(?=^## |^\[[^\]]+\]: |\Z)", changelog, re.M | re.S)
    if not found or not found[1].strip():
        sys.exit(f"error: CHANGELOG.md has no section `## [{version}]`, or an empty one: write it")
    return found[1].strip()


def main() -> None:
    """Check that the tag is that of the project's version, and print its notes."""
    version = sys.argv[1].removeprefix("v")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    if version != project["version"]:
        sys.exit(
            f"error: the tag is {sys.argv[1]}, but pyproject.toml says {project['version']}: "
            "set both alike"
        )
    print(release_notes((ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), version))


if __name__ == "__main__":
    main()
