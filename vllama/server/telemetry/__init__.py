"""What is told of the work: metrics, traces, logs, the shape of the traffic."""
