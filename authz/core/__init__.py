"""The rules, pure: values in, values out. No clock, socket, file, log or async."""
