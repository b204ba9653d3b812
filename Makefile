# One command per task. `make demo` and `make test` set everything up by themselves.
.PHONY: help setup demo test test-long test-vllm lint format bench bench-ingress bench-openai bench-prefix bench-batch bench-queue fuzz sanitize gpu-check chat-model clean
SHELL := /bin/bash
PYTHON := .venv/bin/python

help:
	@echo 'make demo       set up, start a local mesh, deploy examples/digits, send requests, stop'
	@echo 'make test       set up and run all tests (C++ and Python)'
	@echo 'make test-long  what takes long: random kills under traffic, an hour of hostile clients, 10,000 streams, pip install'
	@echo 'make test-vllm  the engine vllm with its CPU build, against OpenVINO (4 GB of packages into build/vllm)'
	@echo 'make lint       ruff, mypy --strict, clang-format, clang-tidy'
	@echo 'make bench      benchmarks against peers; table in benchmarks/README.md'
	@echo 'make bench-ingress  only the direct ingress against tritonserver: gRPC, HTTP, memory, equal rates, streams'
	@echo 'make bench-openai  the gateway beside the replica alone and LiteLLM'
	@echo 'make bench-prefix  four replicas: prompts to whom knows how they begin, beside one after the other'
	@echo 'make bench-batch  the batch operator beside ray.data.llm and a plain client, on the same two replicas'
	@echo 'make bench-queue  a broker beside pushing and Ray Serve: short requests among long ones (half an hour)'
	@echo 'make fuzz       the readers of requests under libFuzzer, a minute each'
	@echo 'make gpu-check  what only an NVIDIA GPU can show; says so where there is none'
	@echo 'make chat-model  train examples/chat/model again (20 minutes, one thread) and count its right answers'
	@echo 'make sanitize   C++ tests under AddressSanitizer and ThreadSanitizer, readers of requests under libFuzzer'
	@echo 'make clean      remove what was built (not .venv)'

setup:
	@scripts/setup

demo: setup
	@$(PYTHON) -m examples.digits.demo

test: setup
	@scripts/test

test-long: setup
	@scripts/test --long

test-vllm: setup
	@scripts/vllm

lint:
	@scripts/setup --lint
	@scripts/lint

format:
	@scripts/setup --lint
	@scripts/lint --fix

bench: setup
	@$(PYTHON) -m benchmarks

bench-ingress: setup
	@$(PYTHON) -m benchmarks ingress ingress_http ingress_shared_memory ingress_memory ingress_rates streams

bench-openai: setup
	@$(PYTHON) -m benchmarks openai

bench-prefix: setup
	@$(PYTHON) -m benchmarks prefix

bench-batch: setup
	@$(PYTHON) -m benchmarks batch_rows

bench-queue: setup
	@$(PYTHON) -m benchmarks broker_peers broker_peers_pareto

fuzz: setup
	@scripts/setup --lint
	@scripts/fuzz

gpu-check: setup
	@scripts/gpu-check

chat-model: setup
	@scripts/chat-model

sanitize: setup
	@scripts/setup --lint
	@scripts/sanitize

clean:
	rm -rf build serving/_lib serving/_native*.so serving/_genai*.so serving/_prefix*.so serving/_proto/*_pb2* .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +
	rm -f .venv/.proto
