#!/bin/sh
# Makes the secrets that docker-compose.yml gives to the containers, each a file in deploy/compose/secrets. What is there
# already is kept: nothing can be read or found any more under another pepper, and nothing opened without its sealing key.
#
# The files can be read by every user, for the containers' users have numbers that no user of this machine has. The
# directory can be entered by its owner alone.
set -eu
cd "$(dirname "$0")"
mkdir -p secrets
chmod 700 secrets
for name in redis-password pepper sealing-key grafana-password; do
  # Docker makes a directory where it was told to mount a file that is not there.
  [ ! -d "secrets/$name" ] || rmdir "secrets/$name"
  [ ! -s "secrets/$name" ] || continue
  (umask 022 && od -An -N32 -tx1 /dev/urandom | tr -d ' \n' >"secrets/$name.new")
  mv "secrets/$name.new" "secrets/$name"
  echo "made deploy/compose/secrets/$name"
done
