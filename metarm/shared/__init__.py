"""What the processes share through Redis. All Redis commands are here, but for the PING of `metarm up`. No torch."""
