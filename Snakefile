# For `snakemake` in this folder. The workflow begins in workflow/Snakefile, since from a repository
# Snakemake takes no module whose Snakefile lies at the top.
include: "workflow/Snakefile"


# That of an included file does not count.
workflow.default_target = "all"
