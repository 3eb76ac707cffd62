"""Tables of the paper, measured on this machine and shown beside its figures."""
