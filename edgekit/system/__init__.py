"""Child processes, published artifacts and the network."""
