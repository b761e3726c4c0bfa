"""What `scripts/faults` and `scripts/model_kills` run: sixteen faults of a provider, and kills of a real model."""
