"""Several sidecars on one machine: started, replaced and stopped together."""
