"""Floor 2: functions that the server itself runs for a model."""
