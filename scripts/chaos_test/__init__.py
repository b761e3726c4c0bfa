"""What `scripts/chaos` runs: it breaks two gateways behind nginx under hundreds of streams, and checks each stream."""
