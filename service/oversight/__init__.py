"""Monitoring off the request path: drift, shadow scoring, the watch, automatic runs, health. No HTTP."""
