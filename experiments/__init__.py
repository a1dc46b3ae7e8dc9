"""The evidence: commands that measure what the product's choices rest on. Nothing outside imports it."""
