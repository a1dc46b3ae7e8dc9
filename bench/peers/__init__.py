"""The servers and libraries to compare with: a file for each, with its command line and request body."""
