"""What Terraform's AWS provider sends, written down as tables and replayed on a real control plane."""
