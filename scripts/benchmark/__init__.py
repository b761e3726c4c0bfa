"""What `scripts/bench` runs: it measures the gateway beside nginx and a bare relay, on the same work."""
