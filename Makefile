# make demo    the whole journey on embedded data, in a virtual environment of its own
# make test    the test suite
# make lint    ruff, mypy, clang-format
# make sanitize kernels and the reader of model files under AddressSanitizer and UBSan
# make develop an editable install, for working on bitwright
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# pip reads the constraints from the environment too, so that they also hold in its build environment
export PIP_CONSTRAINT := $(CURDIR)/constraints.txt
export PIP_BUILD_CONSTRAINT := $(CURDIR)/constraints.txt
export PIP_DISABLE_PIP_VERSION_CHECK := 1
PIP := $(BIN)/python -m pip install --quiet -c constraints.txt

SOURCES := pyproject.toml constraints.txt CMakeLists.txt \
	$(shell find src csrc -type f -not -path '*/__pycache__/*')

.PHONY: demo test lint sanitize develop clean

demo: $(VENV)/.demo
	$(BIN)/bitwright demo

test: $(VENV)/.test
	$(BIN)/python -m pytest

lint: $(VENV)/.lint
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run -Werror $(wildcard csrc/*.cc csrc/*.h)

# An environment inside the other one, whose kernels are instrumented; rows are read word by word at any address,
# hence no check of alignment.
SANITIZED := build/sanitize
FUZZ ?= --files 10000 --processes 20
PRELOADED := LD_PRELOAD="$$(gcc -print-file-name=libasan.so):$$(gcc -print-file-name=libubsan.so)" \
	ASAN_OPTIONS=detect_leaks=0
sanitize: $(VENV)/.test
	$(PYTHON) -m venv $(SANITIZED)
	$(BIN)/python -c "import sysconfig; print(sysconfig.get_path('purelib'))" \
		> "$$($(SANITIZED)/bin/python -c "import sysconfig; print(sysconfig.get_path('purelib'))")/outer.pth"
	$(SANITIZED)/bin/python -m pip install --quiet --no-deps --force-reinstall . --config-settings \
		cmake.define.CMAKE_CXX_FLAGS="-fsanitize=address,undefined -fno-sanitize=alignment -fno-sanitize-recover"
	$(PRELOADED) $(SANITIZED)/bin/python tests/attacks/fuzz.py $(FUZZ)
	$(PRELOADED) $(SANITIZED)/bin/python -m pytest -p no:faulthandler tests/kernels

develop: $(VENV)/bin/python
	$(PIP) --editable '.[dev]'

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

# the package is installed anew, and nothing else fetched again, when a source has changed
$(VENV)/.demo: $(VENV)/bin/python $(SOURCES)
	@echo "installing bitwright (the first time takes two minutes)"
	$(PIP) '.[demo]'
	@touch $@

$(VENV)/.test: $(VENV)/bin/python $(SOURCES)
	@echo "installing bitwright and its test tools (the first time takes two minutes)"
	$(PIP) '.[test]'
	@touch $@

$(VENV)/.lint: $(VENV)/.test
	$(PIP) '.[dev]'
	@touch $@

clean:
	rm -rf $(VENV) build dist runs
