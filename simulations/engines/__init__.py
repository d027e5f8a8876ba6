"""Engines that carry messages between server and clients: in this process, or to workers on Ray."""
