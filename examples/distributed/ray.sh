#!/bin/sh
# One vLLM server over several hosts. On each host, with VLLM_HOST_IP set to its own address
# in a network that nobody else can reach:
#   ray.sh head                on the first
#   ray.sh worker HEAD_IP      on each other
#   ray.sh serve               on the first, when `ray status` shows all GPUs
# GPUS_PER_HOST and HOSTS say how the model is cut.
set -eu
MODEL=${MODEL:-/models/big}
GPUS_PER_HOST=${GPUS_PER_HOST:-8}
HOSTS=${HOSTS:-2}

case "${1:-}" in
head)
  exec ray start --head --port=6379 --block
  ;;
worker)
  exec ray start --address="$2:6379" --block
  ;;
serve)
  exec vllm serve "$MODEL" --served-model-name big --host 0.0.0.0 --port 8000 \
    --distributed-executor-backend ray \
    --tensor-parallel-size "$GPUS_PER_HOST" --pipeline-parallel-size "$HOSTS"
  ;;
*)
  echo "ray.sh head | worker HEAD_IP | serve" >&2
  exit 2
  ;;
esac
