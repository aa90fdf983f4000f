"""The Gearman protocol, pure: bytes in, events out. No socket, clock or greenlet is known on this floor."""
