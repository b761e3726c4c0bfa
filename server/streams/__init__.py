"""Floor 4: all streams of this process, those that are relayed here and those that others relay."""
