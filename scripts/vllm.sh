#!/usr/bin/env bash
# tests/hf/test_vllm.py against vLLM on a CPU: bash scripts/vllm.sh [FOLDER]   (a minute or two)
#
# vLLM's wheel pins a torch for CUDA and a hundred packages; its models, which are all that the test
# runs, need neither. So it goes without dependencies into an environment of its own, which sees the
# packages of `python` (PYTHON=… for another) behind its own.
set -euo pipefail
cd "$(dirname "$0")/.."
place=${1:-/tmp/whatwhere-vllm}
python=${PYTHON:-python}

if [ ! -e "$place/complete" ]; then
    "$python" -m venv "$place"
    own=$("$place/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
    "$python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))' > "$own/behind.pth"
    "$place/bin/python" -m pip install --quiet --no-deps vllm==0.33.0 transformers==5.20.2 \
        aiohappyeyeballs aiohttp aiosignal anthropic apache-tvm-ffi astor attrs blake3 cachetools \
        cbor2 cloudpickle compressed-tensors depyf diskcache distro docstring-parser einops fastapi \
        frozenlist gguf googleapis-common-protos httpcore httpx httpx-sse ijson importlib-metadata \
        interegular jiter jsonschema lark llguidance llvmlite lm-format-enforcer loguru mcp \
        mistral-common model-hosting-container-standards msgspec multidict numba openai \
        openai-harmony opencv-python-headless opentelemetry-api opentelemetry-exporter-otlp \
        opentelemetry-exporter-otlp-proto-common opentelemetry-exporter-otlp-proto-grpc \
        opentelemetry-exporter-otlp-proto-http opentelemetry-proto opentelemetry-sdk \
        opentelemetry-semantic-conventions opentelemetry-semantic-conventions-ai orjson \
        oss-harmony outlines-core partial-json-parser prometheus-client \
        prometheus-fastapi-instrumentator propcache protobuf py-cpuinfo pybase64 pycountry \
        pydantic-extra-types pydantic-settings pyzmq python-json-logger python-multipart \
        sentencepiece setproctitle six sniffio sse-starlette starlette tiktoken uvloop watchfiles \
        xgrammar yarl zipp
    touch "$place/complete"
fi
OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} "$place/bin/python" -m pytest -q tests/hf/test_vllm.py
