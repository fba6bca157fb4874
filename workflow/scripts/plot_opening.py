"""Write the opening page of the report.

Input: the submission, the problems that its check found, the selection, the scores if the ground
truth is known, and a preview of each test crop. Output: an RST file.
"""

from pathlib import Path

from cellmap_pipeline.run.jobs import job

with job(snakemake.log[0], snakemake.output):
    import json

    import pandas as pd

    from cellmap_pipeline.crop_label import crop_label
    from cellmap_pipeline.report.figures.resources import read_benchmarks
    from cellmap_pipeline.report.opening_page import Opening, Preview, write_opening_page
    from cellmap_pipeline.scoring.rules.registry import rules_named

    given, params = snakemake.input, snakemake.params
    rows = params.cfg["rows"]
    opening = Opening(
        rows=[crop_label(row) for row in rows],
        submitted=[crop_label(row) for row in rows if row["made"]],
        empty={crop_label(row) for row in rows if row["made"] and not row["provided"]},
        zip_path=Path(given.zip),
        problems=json.loads(Path(given.check).read_text()),
        selection=pd.read_csv(given.selection, dtype=str, keep_default_na=False),
        scores=json.loads(Path(given.scores[0]).read_text()) if given.scores else None,
        rules=rules_named(params.cfg["rules"]),
        jobs=read_benchmarks(Path(params.benchmarks), Path(params.logs)),
        previews=[
            Preview(Path(figure).parent.name, int(Path(figure).stem[4:]), Path(picture), figure)
            for figure, picture in zip(params.figures, given.previews, strict=True)
        ],
    )
    description = Path(params.description).read_text()
    write_opening_page(opening, description, Path(snakemake.output[0]))
