"""Engines that carry messages between server and clients: this process, or Flower's simulation runtime with Ray."""
