"""What an operator writes: settings and the plans file, read, checked and reloaded."""
