"""Usage plans for any Envoy."""

import os

# gRPC reads these when it is imported. Its core writes lines of its own past every log handler, and looks after forks
# that we only make to start other programs.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
