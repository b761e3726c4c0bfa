"""What scripts/chaos runs: two gateways behind nginx, hundreds of streams, and everything that can go wrong."""
