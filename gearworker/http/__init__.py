"""The HTTP endpoint: metrics, health, what runs now, and a page that shows it to a person."""
