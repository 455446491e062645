# make demo   draws digits and emoji into out/
# make test   builds and runs the quick tests
# Both create .venv and everything in it; nothing else is needed but Python, a C++ compiler and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
ABI_VENV := build/abi-venv
ABI_TORCH ?= 2.14.1
# Tests compile two architectures; wheels compile the list in CMakeLists.txt.
export SEPTET_CUDA ?= AUTO
TEST_CUDA_ARCHS ?= 80-real;90-real

CPP := $(shell git ls-files 'csrc/*' 'tests/emulation/*.cpp' 'tests/emulation/*.h' 'tests/emulation/*.cu' 'tests/emulation/include/*' 2>/dev/null)
SOURCES := $(shell git ls-files CMakeLists.txt pyproject.toml cmake csrc python tests/emulation 2>/dev/null)

.PHONY: demo test test-all test-gpu lint format bench bench-large bench-cuda cuda-report wheel abi-check clean

demo: $(VENV)/.installed
	$(BIN)/septet demo --output out

# pytest-xdist keeps both cores of a small machine busy; each worker then gets one torch thread.
test: $(VENV)/.installed
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2

test-all: $(VENV)/.installed
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 -m "not cuda"

# With a GPU. Where CUDA's sanitizer is installed, the case rows run under its four tools too.
SANITIZER := $(shell command -v compute-sanitizer 2>/dev/null)

test-gpu: $(VENV)/.installed
	$(BIN)/pytest -m cuda
ifneq ($(SANITIZER),)
	for tool in memcheck racecheck initcheck synccheck; do \
		PYTORCH_NO_CUDA_MEMORY_CACHING=1 $(SANITIZER) --tool $$tool --error-exitcode 1 \
			$(BIN)/python -m pytest -m cuda tests/ops/test_cuda.py --timeout 0 || exit 1; \
	done
endif

lint: $(VENV)/.requirements
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/clang-format --dry-run -Werror $(CPP)
	$(BIN)/mypy

format: $(VENV)/.requirements
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(CPP)

# On a machine that does nothing else.
PAGE := --markdown docs/performance.md --plot docs/performance.svg

bench: $(VENV)/.installed
	$(BIN)/septet bench $(PAGE) --json build/performance.jsonl
	$(BIN)/septet bench --suite scaling --scaling-plot docs/scaling.svg

# The networks of gigabytes, and the page from them and what `make bench` found.
bench-large: $(VENV)/.installed
	$(BIN)/septet bench --suite large --json build/performance-large.jsonl
	$(BIN)/septet bench $(PAGE) --from-json build/performance.jsonl build/performance-large.jsonl

# On a machine with a GPU: kernels, attention and a network beside diffusers, torch.compile and SDPA.
bench-cuda: $(VENV)/.installed
	$(BIN)/septet bench --device cuda --markdown docs/performance-cuda.md \
		--json build/performance-cuda.jsonl

# What the compiler says of every kernel on every architecture; needs nvcc, no GPU.
cuda-report: $(VENV)/.requirements
	$(BIN)/python tools/cuda_report.py --output docs/cuda.md

wheel: $(VENV)/.requirements
	$(BIN)/pip wheel --no-build-isolation --no-deps --wheel-dir dist .

# The ABI promise: the wheel, built with one torch, runs with another, outside of this tree.
abi-check: wheel
	$(PYTHON) -m venv $(ABI_VENV)
	$(ABI_VENV)/bin/pip install --quiet torch==$(ABI_TORCH) numpy Pillow safetensors tqdm regex transformers
	$(ABI_VENV)/bin/pip install --quiet --force-reinstall --no-deps dist/septet-*.whl
	cd $(ABI_VENV) && bin/septet env && bin/septet demo --output demo

clean:
	rm -rf build/cp* build/dev build/abi-venv dist out $(VENV)/.installed

$(VENV)/.requirements: requirements-dev.txt constraints-dev.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet -r requirements-dev.txt -c constraints-dev.txt
	touch $@

# A wheel is installed, never an editable checkout: tests then run what users get.
# Symbols stay in: messages of the emulator name lines.
$(VENV)/.installed: $(VENV)/.requirements $(SOURCES)
	SEPTET_EMULATION=ON SEPTET_WERROR=ON SKBUILD_INSTALL_STRIP=false SEPTET_CUDA_ARCHS="$(TEST_CUDA_ARCHS)" \
		$(BIN)/pip install --no-build-isolation --no-deps .
	touch $@
