"""The HTTP side: requests in, responses and events out."""
