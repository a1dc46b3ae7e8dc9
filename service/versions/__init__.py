"""The versions in memory, and changes of the current one, on this server and on all together. No HTTP."""
