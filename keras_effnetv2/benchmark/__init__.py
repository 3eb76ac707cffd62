"""Speed, size and exactness of networks and of their exports on this machine."""
