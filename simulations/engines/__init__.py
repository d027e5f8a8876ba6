"""Engines that carry messages between server and clients: this process, or a SuperLink with Ray."""
