"""Sends requests to targets: the OpenAI SDK over our own transport, its errors translated once, and the circuits."""
