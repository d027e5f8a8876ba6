"""Edits of hidden states that steer a frozen backbone."""
