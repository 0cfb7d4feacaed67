"""The portal: pages for a customer."""
