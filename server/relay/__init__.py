"""One stream: its log and its readers, the relay that appends to the log, and the attempts of that relay."""
