"""The process floor: one worker process, all of them under a supervisor, and the service around these."""
