"""The trainable modules a method puts on the frozen backbone."""
