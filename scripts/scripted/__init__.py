"""A provider that misbehaves on request: the parts of `scripts/scripted_provider.py`."""
