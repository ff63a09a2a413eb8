# Everything a fresh machine needs: Python 3.10 or newer, and make.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
.PHONY: lab tour test notebooks export readme clean

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --upgrade pip

# A stamp a level of set-up: what running needs, what reading needs, what developing needs.
$(VENV)/.run: $(BIN)/python settings.ini setup.py
	$(BIN)/python -m pip install -q -e .
	@touch $@
$(VENV)/.lab: $(BIN)/python settings.ini setup.py
	$(BIN)/python -m pip install -q -e '.[lab]'
	@touch $@
$(VENV)/.dev: $(BIN)/python settings.ini setup.py
	$(BIN)/python -m pip install -q -e '.[dev]'
	@touch $@

# A browser for the tests of the widgets: Debian's, where we may install it. Without one those tests are skipped and say so.
$(VENV)/.browser: $(VENV)/.dev
	@if command -v chromium chromium-headless-shell chromium-browser google-chrome >/dev/null; then :; \
	elif [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		(apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends chromium) >$@.log 2>&1 \
		|| echo "no browser could be installed (see $@.log): the browser tests of the widgets are skipped"; \
	else echo "no browser here, and no right to install one: the browser tests of the widgets are skipped"; fi
	@touch $@

lab: $(VENV)/.lab            ## JupyterLab on the notebooks
	$(BIN)/jupyter lab --notebook-dir=nbs $(if $(filter 0,$(shell id -u)),--allow-root)

tour: $(VENV)/.run           ## train a small detector on sample pictures, print COCO's 12 numbers, write a report page
	$(BIN)/learndet tour --work-dir work_dirs/tour

test: $(VENV)/.browser       ## everything CI runs
	PATH="$(CURDIR)/$(BIN):$$PATH" bash .ci/checks

notebooks: $(VENV)/.dev      ## run every notebook from top to bottom and keep its outputs
	$(BIN)/python tests/layout/notebooks.py run nbs

export: $(VENV)/.dev         ## write the package from the notebooks
	$(BIN)/nbdev_export

readme: $(VENV)/.dev         ## write README.md from nbs/index.ipynb
	$(BIN)/python tests/layout/notebooks.py readme

clean:
	rm -rf work_dirs outputs build dist *.egg-info
