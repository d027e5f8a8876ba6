"""How the server makes one set of shared tensors of many clients' updates."""
