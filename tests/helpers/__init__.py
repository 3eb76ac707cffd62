"""What several test files use: golden numbers, small networks, servers, processes."""
