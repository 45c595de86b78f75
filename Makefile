# `make demo` and `make test` work on a fresh machine: each first makes .venv and installs into it. BUNDLE=DIR installs from
# the folder that `python -m tools.bundle` made, without a network and whatever pip is configured to on this machine.
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
STAMP := $(VENV)/.installed
CONFIG := config/demo.yaml
BUNDLE ?=
PIP := $(if $(BUNDLE),PIP_CONFIG_FILE=/dev/null )$(RUN) -m pip
FROM_BUNDLE := $(if $(BUNDLE),--isolated --no-index --find-links $(BUNDLE)/wheels)

.PHONY: demo test lint bench torture clean
.DELETE_ON_ERROR:

$(STAMP): requirements.txt requirements-dev.txt constraints.txt
	test -x $(RUN) || $(PYTHON) -m venv $(VENV)
	$(PIP) install --quiet --disable-pip-version-check $(FROM_BUNDLE) -r requirements-dev.txt -c constraints.txt
	touch $@

demo: $(STAMP)
	$(RUN) -m tools.make_phantoms --output demo/phantoms --num-images 2000 --image-size 64
	$(RUN) -m tools.train_encoder --config $(CONFIG) --role encoder --epochs 8 --max-minutes 60
	$(RUN) -m tools.train_encoder --config $(CONFIG) --role judge --epochs 8 --max-minutes 60
	$(RUN) -m tools.cache_latents --config $(CONFIG)
	$(RUN) train_ddpm_cond.py --config $(CONFIG)
	$(RUN) sample_ddpm_class_cond.py --config $(CONFIG)

test: $(STAMP)
	$(RUN) -m pytest

lint: $(STAMP)
	$(RUN) -m ruff check .

bench: $(STAMP)
	$(RUN) -m tools.benchmark

# Kills small runs and compares what they make after with unbroken ones; Linux with a C compiler; about 10 s a kill.
KILLS ?= 20
torture: $(STAMP)
	PYTHONPATH=. $(RUN) tests/torture/torture.py --kills $(KILLS)

clean:
	rm -rf demo
