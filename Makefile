# Two commands do everything, from a fresh clone with python3 (3.10 or later), pip and a C++ compiler:
#   make demo    install into .venv, train on a simulated recording, score, adapt, draw
#   make test    install into .venv, check style and types, test the core and the package
# Others: make lint, make format, make ctest, make inplace, make clean. Choose a Python with PYTHON=python3.12.

PYTHON ?= python3
VENV ?= .venv
JOBS ?= 2
BIN := $(VENV)/bin
# Python compiles what is imported, when it is.
PIP := $(BIN)/python -m pip install --quiet --no-compile -c constraints.txt

# Whatever ends up in the installed package; a change reinstalls it.
SOURCES := pyproject.toml CMakeLists.txt constraints.txt \
	$(shell find poco kernels csrc examples/datasets -type f \( -name '*.py' -o -name '*.toml' -o -name '*.h' \
	-o -name '*.c' -o -name '*.cpp' -o -name '*.cu' -o -name '*.txt' -o -name '*.json' -o -name '*.html' -o -name '*.css' -o -name '*.js' -o -name 'py.typed' \) 2>/dev/null)
PYTHON_PATHS := $(wildcard poco kernels python_tests benchmarks docs examples)
CSRC := $(shell find csrc examples -name '*.h' -o -name '*.c' -o -name '*.cpp' -o -name '*.cu')

.PHONY: demo test lint format ctest pytest inplace clean
.DELETE_ON_ERROR:

demo: $(VENV)/.installed-demo
	$(BIN)/poco demo

# One after another even under make -j: the cheap checks first.
test: $(VENV)/.installed-test
	@$(MAKE) --no-print-directory lint
	@$(MAKE) --no-print-directory ctest
	@$(MAKE) --no-print-directory pytest

lint: $(VENV)/.installed-test
	$(BIN)/ruff check $(PYTHON_PATHS)
	$(BIN)/ruff format --check $(PYTHON_PATHS)
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run -Werror $(CSRC)

format: $(VENV)/.installed-test
	$(BIN)/ruff check --fix $(PYTHON_PATHS)
	$(BIN)/ruff format $(PYTHON_PATHS)
	$(BIN)/clang-format -i $(CSRC)

# In the folder that the package was built in, for its objects; without Python all the same.
ctest: $(VENV)/.installed-test
	@mkdir -p build
	$(BIN)/cmake -S . -B build/core -DPOCO_PYTHON=OFF -DPOCO_LIBRARY=ON -DPOCO_TESTS=ON -DPOCO_WERROR=ON > build/core.log || (cat build/core.log; false)
	$(BIN)/cmake --build build/core --parallel $(JOBS) >> build/core.log || (cat build/core.log; false)
	$(BIN)/ctest --test-dir build/core --output-on-failure --no-tests=error

# Tests run against the installed package, never against the tree; POCO_TEST_CORE=1: a missing core is a failure.
pytest: $(VENV)/.installed-test
	OMP_NUM_THREADS=1 POCO_TEST_CORE=1 $(BIN)/pytest -n $(JOBS)

# The compiled module and the kernels into the tree itself, for work with PYTHONPATH=.
inplace: $(VENV)/.installed-test
	$(BIN)/cmake -S . -B build/inplace -DPython_EXECUTABLE=$(abspath $(BIN)/python) \
		-Dpybind11_DIR=$$($(BIN)/python -m pybind11 --cmakedir) > /dev/null
	$(BIN)/cmake --build build/inplace --parallel $(JOBS)
	$(BIN)/cmake --install build/inplace --prefix .
	ln -sfn ../kernels poco/kernels

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "poco needs Python 3.10 or later: make PYTHON=...")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed-demo: $(SOURCES) | $(BIN)/python
	@echo "Installing poco and what the demo needs into $(VENV) (torch is large: this can take minutes) ..."
	@$(PIP) '.[cli,plots]'
	@touch $@

$(VENV)/.installed-test: $(SOURCES) | $(BIN)/python
	@echo "Installing poco and what the tests need into $(VENV) (torch is large: this can take minutes) ..."
	@$(PIP) scikit-build-core pybind11 cmake ninja
	@SKBUILD_BUILD_DIR=build/core SKBUILD_CMAKE_DEFINE='POCO_PYTHON=ON;POCO_LIBRARY=OFF;POCO_TESTS=OFF;POCO_WERROR=ON' \
		$(PIP) --no-build-isolation '.[test]'
	@touch $@

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis poco/_core*.so poco/data/descriptions poco/kernels
	find . -name __pycache__ -type d -not -path './.git/*' -prune -exec rm -rf {} +
