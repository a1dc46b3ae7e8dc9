"""What looks at the answers: after each, never in its way."""
