"""Before Snakemake reads the configuration: that it is one, and data alone."""

import sys
from pathlib import Path

# Where this workflow lies; no path where another one takes it from a repository as a module.
ROOT = Path(workflow.current_basedir.get_path_or_uri(secret_free=True)).parent
# The library, without `pip install`: Snakemake passes this on to the scripts of all jobs.
sys.path.insert(0, str(ROOT / "src"))

from cellmap_pipeline.errors import InputError, gathered, raise_all
from cellmap_pipeline.io.yaml_files import read_yaml


def stop(error):
    """End with a message alone: to a WorkflowError, Snakemake adds its own place in this file."""
    sys.exit(f"error: {error}")


def check_configfiles(default):
    """See that the files of the configuration are YAML without surprises."""
    given = [Path(path) for path in workflow.overwrite_configfiles]
    # A module's configuration is that of the workflow which includes it.
    is_module = workflow.modifier.skip_configfile
    files = given if is_module or (given and not default.exists()) else [default, *given]
    problems = []
    for path in files:
        with gathered(problems):
            read_yaml(path)
    raise_all(problems)


try:
    check_configfiles(Path("config/config.yaml"))
except InputError as error:
    stop(error)
