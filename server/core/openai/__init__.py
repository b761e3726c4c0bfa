"""OpenAI chat completion streams: from bytes to checked chunks, and what the chunks have said."""
