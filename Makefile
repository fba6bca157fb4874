# The entry points: `make help` lists them. Needs Python 3.11+, make, git and a package index.

.DEFAULT_GOAL := help
.PHONY: help env demo images test test-demo test-slurm test-chaos test-browser test-napari test-fuzz test-gpu gpu-kit install-profiles lint format lock clean

# The first Python that works and is new enough; another one with `make env PYTHON=/path/to/python3`.
NEW_ENOUGH := import sys; sys.exit(sys.version_info < (3, 11))
PYTHON ?= $(shell for p in python3.11 python3 python; do $$p -c '$(NEW_ENOUGH)' 2>/dev/null && echo $$p && break; done)

# uv from PATH where it works, else one of our own in .uv.
ifeq ($(shell uv --version >/dev/null 2>&1 && echo yes),yes)
UV := uv
else
UV := .uv/bin/uv
UV_IS_MISSING := $(UV)
endif

# Folder of the wheels for a GPU node, and the version of Python there.
KIT ?= gpu-kit
PYTHON_VERSION ?= 3.12

SMK := $(wildcard Snakefile workflow/Snakefile rules/*.smk)

# So that Snakemake's own subprocesses find this environment's Python, too.
export PATH := $(CURDIR)/.venv/bin:$(PATH)

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-16s %s\n", $$1, $$2 }' Makefile

env: .venv/.installed  ## set up the environment in .venv, with the versions of requirements.lock

demo: env  ## make the demo data and run the workflow on them: submission.zip, scores.json, report.html
	cellmap-pipeline demo-data data/demo
	snakemake --profile profiles/local

images: demo  ## bring the pictures of the demo in docs/images up to date
	tests/debian_packages.sh "chromium chromedriver" "chromium chromium-driver"
	python tests/browser/pictures.py 10 docs/images/viewer.jpg
	cp results/figures/crops/demo_cell-1/crop10.jpg docs/images/demo_crop.jpg
	cp results/figures/training/demo.png docs/images/demo_training.png
	cp results/figures/scores.png docs/images/demo_scores.png

test: lint  ## run the checks and the tests
	pytest tests -m "not slow and not slurm and not chaos and not browser and not napari and not gpu" -n 2 --dist loadfile

test-demo: env  ## run all slow tests: the whole demo, every command of the docs, other executors (minutes)
	pytest tests -m slow -n 2 --dist loadfile --no-loadscope-reorder

test-slurm: env  ## run the demo on a Slurm cluster of its own, disturbed in many ways (minutes; SLURM="-k whole_demo")
	tests/debian_packages.sh "munged slurmctld slurmd sbatch" "slurm-wlm munge"
	pytest tests/slurm $(SLURM)

test-chaos: env  ## kill processes of a run, anywhere, and see that nothing is lost (minutes; CHAOS="--kills 24 --seed 0")
	pytest -s tests/chaos $(CHAOS)

test-browser: env  ## look at the viewer and the report in a real browser (minutes)
	tests/debian_packages.sh "chromium chromedriver" "chromium chromium-driver"
	pytest tests/browser

test-napari: env .napari-env/.installed  ## open volumes in napari, which has an environment of its own (minutes)
	pytest tests/napari

test-fuzz: env  ## draw errors in zips, chunks and metadata, and see that each ends with a message (minutes; FUZZ=3000)
	FUZZ_EXAMPLES=$(or $(FUZZ),1000) pytest tests/unit -k fuzz -n 2

test-gpu: env  ## prove a GPU node: trainings, memory, resuming, prediction (minutes; skipped without a GPU)
	pytest tests/gpu -rs

# Names as of wheels for glibc from 2.17 to 2.28.
KIT_PLATFORMS := $(foreach version,2_17 2_24 2_27 2_28,--platform manylinux_$(version)_x86_64) --platform manylinux2014_x86_64
KIT_INSTALL = python -m pip install --no-index --no-deps --find-links wheels --requirement requirements.txt

gpu-kit: | $(UV_IS_MISSING)  ## collect wheels for a GPU node without a package index (KIT=gpu-kit PYTHON_VERSION=3.12)
	@test ! -e "$(KIT)" || { echo "$(KIT) exists: remove it, or name another folder: KIT=FOLDER" >&2; exit 1; }
	mkdir -p "$(KIT)/wheels" "$(KIT)/tests" "$(KIT)/config"
	$(UV) build --quiet --wheel --out-dir "$(KIT)/wheels" .
	grep -xE "($$(paste -sd '|' tests/gpu/kit.txt))==.*" requirements.lock > "$(KIT)/requirements.txt"
	$(UV) tool run --quiet pip download --quiet --no-deps --only-binary=:all: --dest "$(KIT)/wheels" \
	    --python-version $(PYTHON_VERSION) $(KIT_PLATFORMS) --requirement "$(KIT)/requirements.txt"
	ls "$(KIT)/wheels" | sed -n "s/^cellmap_pipeline-\([^-]*\)-.*/cellmap-pipeline==\1/p" >> "$(KIT)/requirements.txt"
	cp pyproject.toml "$(KIT)"
	cp tests/__init__.py "$(KIT)/tests"
	cp -r tests/gpu tests/support "$(KIT)/tests"
	cp -r config/training "$(KIT)/config"
	find "$(KIT)" -name __pycache__ -prune -exec rm -rf {} +
	@du -sh "$(KIT)"
	@echo "On the node, with PyTorch, NumPy, SciPy and Lightning installed, in $(notdir $(KIT)):"
	@echo "    $(KIT_INSTALL)"
	@echo "    python -m pytest tests/gpu -rs"

install-profiles: env  ## link profiles/ into the folder where `snakemake --profile slurm` looks
	@folder="$${XDG_CONFIG_HOME:-$$HOME/.config}/snakemake" && mkdir -p "$$folder" && \
	for name in local slurm lsf; do \
	    if [ -e "$$folder/$$name" ] || [ -L "$$folder/$$name" ]; then echo "kept $$folder/$$name"; \
	    else ln -s "$(CURDIR)/profiles/$$name" "$$folder/$$name" && echo "made $$folder/$$name"; fi; \
	done

lint: env  ## check style, types and the order of imports
	ruff check .
	ruff format --check .
	$(if $(SMK),snakefmt --check $(SMK))
	mypy
	lint-imports --no-logo
	find src -name '*.py' -exec numpydoc lint {} +

format: env  ## put Python and Snakemake files into the project's style
	ruff check --fix .
	ruff format .
	$(if $(SMK),snakefmt $(SMK))

lock: | $(UV_IS_MISSING)  ## bring requirements.lock and the pins in envs/ in step with pyproject.toml
	$(UV) pip compile --quiet --extra dev --python-version 3.11 --python-platform x86_64-manylinux_2_28 \
	    --no-annotate --no-header --output-file requirements.lock pyproject.toml
	@for file in envs/*.yaml; do \
	    awk -F == 'NR == FNR { pin[$$1] = $$2; next } \
	        { name = $$1; sub(/^ *- */, "", name); print (NF == 2 && name in pin) ? $$1 FS pin[name] : $$0 }' \
	        requirements.lock "$$file" > "$$file.new" && mv "$$file.new" "$$file" || exit 1; \
	done

clean:  ## remove the environment and caches; data and results stay
	rm -rf .venv .uv .napari-env .mypy_cache .pytest_cache .ruff_cache .hypothesis build src/*.egg-info
	find src tests workflow benchmarks -name __pycache__ -prune -exec rm -rf {} + 2>/dev/null || true

# The stamp comes last: an interrupted installation is taken up again. Packages that a user added stay, for which
# the environment has pip.
.venv/.installed: requirements.lock pyproject.toml | $(UV_IS_MISSING)
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer not found; name one: make env PYTHON=/path/to/python3" >&2; exit 1; }
	@test -x .venv/bin/python \
	    || $(UV) venv --quiet --allow-existing --python "$$($(PYTHON) -c 'import sys; print(sys.executable)')" .venv
	$(UV) pip install --python .venv --compile-bytecode --requirements requirements.lock
	$(UV) pip install --python .venv --quiet --no-deps --no-build-isolation --editable .
	@.venv/bin/python -m pip --version >/dev/null 2>&1 || $(UV) pip install --python .venv --quiet pip
	@touch $@

.napari-env/.installed: tests/napari/requirements.txt .venv/.installed
	$(UV) venv --quiet --allow-existing --python .venv/bin/python .napari-env
	$(UV) pip install --quiet --python .napari-env --requirements $<
	@touch $@

.uv/bin/uv:
	$(PYTHON) -m venv .uv
	.uv/bin/python -m pip install --quiet uv
