from cellmap_pipeline.config.reference import documents


def test_schemas_and_reference_are_current(repo_root):
    for path, text in documents().items():
        assert (repo_root / path).read_text(encoding="utf-8") == text, (
            f"{path}: run `python -m cellmap_pipeline.config.reference`"
        )
