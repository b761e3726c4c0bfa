"""The benchmark behind ``scripts/bench``: the gateway beside nginx and a bare relay, on the same work."""
