"""The worker: slots that run jobs, links that keep job servers connected, and the two together."""
