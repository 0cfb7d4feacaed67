#!/bin/sh
# Makes the secrets that docker-compose.yml gives to the containers, each a file in deploy/compose/secrets, and the plans
# to begin with: those of the sample, with new keys. Existing files are kept: under another pepper no key is
# found any more, and without its sealing key no value is opened.
#
# The files can be read by every user, for the containers' users have numbers that no user of this machine has. The
# directory can be entered by its owner alone.
set -eu
cd "$(dirname "$0")"
mkdir -p secrets
chmod 700 secrets
random() { od -An -N32 -tx1 /dev/urandom | tr -d ' \n'; }
for name in redis-password pepper sealing-key grafana-password; do
  # Docker makes a directory in place of a mounted file that does not exist.
  [ ! -d "secrets/$name" ] || rmdir "secrets/$name"
  [ ! -s "secrets/$name" ] || continue
  (umask 022 && random >"secrets/$name.new")
  mv "secrets/$name.new" "secrets/$name"
  echo "made deploy/compose/secrets/$name"
done

# plans.yaml has a key's SHA-256, since every user may read it; the keys themselves are in secrets/api-keys, as lines for
# a shell: tester=…
if [ ! -e plans/plans.yaml ]; then
  if command -v sha256sum >/dev/null; then sum=sha256sum; else sum='shasum -a 256'; fi
  mkdir -p plans
  cp ../../authz/samples/plans.yaml plans/plans.yaml.new
  (umask 077 && : >secrets/api-keys)
  for value in $(sed -n 's/.* value: \(demo-key-[a-z0-9-]*\).*/\1/p' plans/plans.yaml.new); do
    key=$(random)
    name=${value#demo-key-}
    echo "${name%-*}=$key" >>secrets/api-keys
    hash=$(printf %s "$key" | $sum | cut -d ' ' -f 1)
    sed "s/ value: $value/ valueSha256: $hash/" plans/plans.yaml.new >plans/plans.yaml.next
    mv plans/plans.yaml.next plans/plans.yaml.new
  done
  sed "s|^# The keys. These values are public.*|# The keys, each by the SHA-256 of its value. deploy/compose/secrets.sh made the values, which are in|
s|^# which can stand here in place of the value.*|# deploy/compose/secrets/api-keys. \`authz new-key\` prints another, and its valueSha256.|" \
    plans/plans.yaml.new >plans/plans.yaml.next
  rm plans/plans.yaml.new
  chmod 755 plans
  chmod 644 plans/plans.yaml.next
  mv plans/plans.yaml.next plans/plans.yaml
  echo "made deploy/compose/plans/plans.yaml, and its keys in deploy/compose/secrets/api-keys"
fi
