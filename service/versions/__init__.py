"""Which version answers: the versions in memory, and what moves the pointer, on one server and all."""
