"""Links between the pages of the docs."""

import re


def links(page):
    """Return the files that a page links to or shows."""
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.S)
    found = [link.partition("#")[0] for link in re.findall(r"\]\(([^)\s]+)\)", text)]
    return [(page.parent / link).resolve() for link in found if link and "://" not in link]


def test_links_lead_to_files(repo_root):
    pages = [*repo_root.glob("*.md"), *repo_root.glob("docs/*.md"), repo_root / "config/README.md"]
    found = {page.relative_to(repo_root).as_posix(): links(page) for page in pages}
    assert len(found["README.md"]) > 10
    missing = {name: [f for f in files if not f.exists()] for name, files in found.items()}
    assert {name: files for name, files in missing.items() if files} == {}


def test_the_readme_leads_to_every_page_and_the_docs_show_every_picture(repo_root):
    docs = repo_root / "docs"
    readme = links(repo_root / "README.md")
    linked = {*readme, *(file for page in readme if page.suffix == ".md" for file in links(page))}
    assert {*docs.glob("*.md")} - linked == set()
    assert {*docs.glob("images/*")} - linked == set()
