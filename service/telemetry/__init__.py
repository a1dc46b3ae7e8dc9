"""Metrics, the server's current load, and log lines of requests. No HTTP, no torch."""
