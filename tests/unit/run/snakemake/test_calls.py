"""Snakemake called by a job."""

from datetime import date

import pytest

from cellmap_pipeline.errors import InputError
from cellmap_pipeline.run.snakemake.calls import run_snakemake

SNAKEFILE = """
configfile: "config.yaml"
rule all:
    input: [f"{name}.txt" for name in config["names"]], "gone.txt" if "gone" in config else []
rule first:
    output: "first.txt"
rule second:
    output: "second.txt"
"""


def test_snakemake_uses_only_the_given_configuration(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "Snakefile").write_text(SNAKEFILE)
    (tmp_path / "config.yaml").write_text("names: [first]\ngone: true\n")
    config = {"names": ["second"], "rules": date(2026, 6, 30)}
    graph = run_snakemake("Snakefile", [], config, ["--rulegraph", "mermaid-js"])
    assert graph.startswith("---\ntitle: DAG")
    assert "[second]" in graph and "[first]" not in graph


def test_failure_of_snakemake_is_an_error(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "Snakefile").write_text(SNAKEFILE)
    (tmp_path / "config.yaml").write_text("names: []\n")
    with pytest.raises(InputError, match="--rulegraph mermaid-js failed; its messages are above"):
        run_snakemake("Snakefile", [], {"names": ["third"]}, ["--rulegraph", "mermaid-js"])
    assert "third.txt" in capsys.readouterr().err
