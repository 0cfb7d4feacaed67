"""The control plane: AWS's REST API for what the store keeps."""
