.PHONY: build quick test slow bench lint format picture docs notebooks fuzz

build:          ## compile in place and install with everything that tests and benchmarks need
	pip install -e '.[test,bench,dev]'

quick:          ## a sample of the suite, in a minute
	pytest -q --quick

test:           ## the whole fast suite
	pytest

slow:           ## the tests that take long
	pytest -m slow

bench:          ## speed against ceilings and peers; wants a quiet machine
	python -m bench --out bench/results/cpu-$(shell date +%F).json

CXX_FILES = $(shell git ls-files '*.h' '*.cpp' '*.cu' '*.cuh')

lint:           ## what CI checks
	ruff check .
	ruff format --check .
	mypy
	mypy --config-file= --strict --follow-imports=silent tests/support/typed_user.py
	clang-format --dry-run --Werror $(CXX_FILES)

format:         ## fix what lint finds, where a tool can
	ruff check --fix .
	ruff format .
	clang-format -i $(CXX_FILES)

picture:        ## the pictures of the README, with their text, and of the docs, from committed results
	python -m bench.pictures

docs:           ## the site, in build/site; needs the extra [docs], and no network
	NO_MKDOCS_2_WARNING=1 mkdocs build

notebooks:      ## run examples/notebooks again, in place
	python docs/site/notebooks.py

fuzz:           ## damaged files of every format, for about an hour; the suite has half a minute of it
	FASTREALIGN_FUZZ_EXAMPLES=40000 pytest tests/contract/test_fuzz.py
