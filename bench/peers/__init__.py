"""The servers and libraries we are compared with: one file each, with its command line and request body."""
