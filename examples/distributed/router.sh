#!/bin/sh
# vLLM's router in front of vLLM servers on other hosts: router.sh http://a:8000 http://b:8000
# It waits until every one of them is healthy, and gives up after half an hour.
set -eu

exec vllm-router --worker-urls "$@" --policy cache_aware --host 0.0.0.0 --port "${PORT:-8001}" \
  --worker-startup-timeout-secs 1800 --worker-startup-check-interval 5 \
  --health-check-interval-secs 5 --prometheus-port "${METRICS_PORT:-29000}"
