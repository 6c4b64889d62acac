#!/bin/sh
# One vLLM server on this host; the same on every host that router.sh names.
set -eu
MODEL=${MODEL:-Qwen/Qwen3-8B}

exec vllm serve "$MODEL" --served-model-name big --host 0.0.0.0 --port 8000
