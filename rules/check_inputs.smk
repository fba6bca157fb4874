# Trainings whose validation crops are needed.
SPLIT = USED or list(PLAN.trainings)
# By training, which crops it reads, and how.
READ = {
    name: stages.training_settings(PLAN.trainings[name], [*stages.DATASPLIT_KEYS, "datasplit"])
    for name in SPLIT
}
# By what waits for the check (a source, or TRAINING/cropN), the settings that both depend on.
CHECKED = {name: [READ[name], sorted(PLAN.fetched)] for name in SPLIT}
CHECKED |= {
    name: plan_validation.validation_settings(PLAN, name) for name in PLAN.config.predictions
}
CHECKED |= {
    f"{name}/crop{crop}": [
        rows_of(name, crop),
        PLAN.trainings[name].voxel_size,
        PLAN.trainings[name].inference.checkpoint,
    ]
    for name, crop in PREDICTED
}
# A graph that is drawn shows the check also where nothing is left to look at.
DRAWS = {"--dag", "--rulegraph", "--filegraph"}.intersection(sys.argv)


rule check_inputs:
    """Look at the data before anything expensive: what must be there, is, and can be read."""
    input:
        manifest=ancient(PLAN.manifest),
        fetched=FETCHED,
    # A mark that is there has no rule. So nothing is looked at again, unless this rule is the target
    # (with no output left, not even a benchmark, it always runs then); and of what waits for a mark,
    # Snakemake sees whether its own settings changed.
    output:
        [touch(mark) for mark in map(mark_of, CHECKED) if DRAWS or not mark.exists()],
    log:
        OUTPUT / "logs/check_inputs.log",
    conda:
        "../envs/cellmap-pipeline.yaml"
    threads: 8
    resources:
        mem_mb=growing(4000),
        runtime=growing(60),
    params:
        # What it goes by.
        config=untracked(lambda wildcards: config),
        source=untracked(lambda wildcards: str(CONFIGFILES[0] if CONFIGFILES else "config")),
        folders=untracked(lambda wildcards: [str(folder) for folder in TRAINING_FOLDERS]),
        trains_here=untracked(lambda wildcards: not workflow.remote_exec),
        found=str(OUTPUT / "check_inputs.json"),
    script:
        "../workflow/scripts/check_inputs.py"
