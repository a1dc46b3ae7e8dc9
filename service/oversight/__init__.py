"""What watches the answers beside the requests: drift figures, the watch, automatic runs, health. No HTTP."""
