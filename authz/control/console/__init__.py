"""The console: pages for the owner of the API."""
