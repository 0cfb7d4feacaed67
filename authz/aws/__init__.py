"""Amazon API Gateway's API as values: its resources, patches, usage, errors, signatures and files. No I/O."""
