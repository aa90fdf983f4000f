"""The demo behind ``make demo``: tasks as users write them, and a script that puts real jobs through a real worker."""
