"""The only floor that opens sockets: addresses, delays and one connection."""
