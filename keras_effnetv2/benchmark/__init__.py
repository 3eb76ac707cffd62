"""Speed, size and accuracy of networks and their exports on this machine."""
