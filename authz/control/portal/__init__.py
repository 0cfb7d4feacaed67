"""The portal: pages for a customer of the API, who sees its own use and keys, and no other customer's."""
