"""Clients that resume."""
