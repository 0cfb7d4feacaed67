# Sourced. Makes a Debian in a directory, as root, from its mirror.

# debian_root SUITE PACKAGES DIR CACHE: minbase and these packages (comma-separated). CACHE keeps the downloads.
debian_root() {
  mkdir -p "$4/debs/$1"
  debootstrap --variant=minbase --include="$2" --cache-dir="$4/debs/$1" "$1" "$3" >"$4/debootstrap.log" 2>&1 || {
    tail -5 "$4/debootstrap.log" >&2
    return 1
  }
}

# forget_root DIR: removes it. debootstrap leaves /proc mounted below it when it is interrupted.
forget_root() {
  grep -o " $1/[^ ]*" /proc/mounts | tac | while read -r mount; do umount "$mount"; done || true
  rm -rf --one-file-system "$1"
}
