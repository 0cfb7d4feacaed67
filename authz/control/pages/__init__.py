"""The parts that the console and the portal share: safety, sessions, templates, charts."""
