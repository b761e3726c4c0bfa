"""One stream: its log, the relay that appends to it, and the attempts that the relay makes."""
