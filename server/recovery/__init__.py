"""Floor 2: what to do after a failed attempt. Pure decisions; the relay acts."""
