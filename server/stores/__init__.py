"""Floor 2: where logs live. `memory` here; others come through the entry point group `sluiceway.stores`."""
