"""What the processes share through Redis: samples, jobs, leases, registrations, cut-overs. No torch.

All Redis commands are here, except the PING of `metarm up`.
"""
