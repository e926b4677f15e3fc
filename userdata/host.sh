# shellcheck shell=sh disable=SC2034
# What both role scripts need on a machine of its own: sourced by them, as root.

share=${VIDCLOUD_SHARE_ROOT:-/srv/vidcloud}
python=${VIDCLOUD_PYTHON:-/opt/vidcloud/bin/python}
lifetime=43200 dead_man=120 tunnel_port=20049
job='' node='' home='' collector=''

die() {
  echo "vidcloud: $*" >&2
  exit 1
}

read_arguments() {
  while [ $# -gt 0 ]; do
    [ $# -gt 1 ] || die "$1 has no value"
    case $1 in
      --job) job=$2 ;;
      --node) node=$2 ;;
      --home) home=$2 ;;
      --collector) collector=$2 ;;
      --lifetime) lifetime=$2 ;;
      --dead-man) dead_man=$2 ;;
      --env)
        case $2 in
          AWS_ENDPOINT_URL_S3=* | AWS_DEFAULT_REGION=* | VIDCLOUD_*=*) export "${2?}" ;;
          *) die "--env ${2%%=*}: this setting is not for nodes" ;;
        esac
        ;;
      *) die "unknown argument $1" ;;
    esac
    shift 2
  done
  case $job in '' | *[!a-z0-9-]*) die "bad job '$job'" ;; esac
  case $node in '' | *[!A-Za-z0-9._-]*) die "bad node '$node'" ;; esac
  case $lifetime$dead_man in *[!0-9]*) die "bad time" ;; esac
  root=$share/jobs/$job
}

# A key in the bundle means that NFS goes through TLS, among those who have it (docs/decisions/0008-encryption-in-transit.md).
encrypted() { [ -e "$VIDCLOUD_BUNDLE/tunnel.psk" ]; }

# Usage: open_tunnel ACCEPT CONNECT [LINE]. It lasts as long as this script.
open_tunnel() {
  command -v stunnel >/dev/null || die "this image has no stunnel, which encrypt = true needs"
  # Whoever can't prove the key gets no cipher: with TLS 1.3 stunnel would take any certificate in the key's place.
  cat >"$VIDCLOUD_RUN/tunnel.conf" <<END
foreground = yes
pid =
syslog = no
debug = err
setuid = stunnel4
setgid = stunnel4
socket = l:TCP_NODELAY=1
socket = r:TCP_NODELAY=1
socket = l:SO_KEEPALIVE=1
socket = r:SO_KEEPALIVE=1
socket = l:TCP_KEEPIDLE=30
socket = r:TCP_KEEPIDLE=30
[nfs]
${3:-}
accept = $1
connect = $2
sslVersion = TLSv1.2
ciphers = ECDHE-PSK-CHACHA20-POLY1305
renegotiation = no
PSKsecrets = $VIDCLOUD_BUNDLE/tunnel.psk
END
  # Not the console: this script's output ends only when nobody holds it any more.
  keep_tunnel </dev/null >>"$VIDCLOUD_RUN/tunnel.log" 2>&1 &
  tunnel=$!
  trap 'kill "$tunnel" 2>/dev/null || :' EXIT
}

keep_tunnel() {
  running=''
  trap 'kill $running 2>/dev/null; exit 0' TERM
  while :; do
    stunnel "$VIDCLOUD_RUN/tunnel.conf" &
    running=$!
    wait "$running" || :
    sleep 1
  done
}

# Whatever happens, this machine does not outlive its time.
arm_lifetime() { shutdown -h "+$(((lifetime + 59) / 60))" >/dev/null 2>&1 || die "can't arm the dead-man timer"; }

# Nodes run the very program of the launcher: a wheel of pure Python must only lie on the path.
use_wheel() {
  for wheel in "$VIDCLOUD_BUNDLE"/wheels/vidcloud-*.whl; do
    [ -e "$wheel" ] || continue
    "$python" -m zipfile -e "$wheel" "$VIDCLOUD_RUN/site"
    export PYTHONPATH="$VIDCLOUD_RUN/site"
  done
}

prepare() {
  arm_lifetime
  # NFSv4 knows its clients by their names, and machines of one image have the same.
  hostname "$node"
  rm -f "$VIDCLOUD_RUN/bundle.tar" # it is unpacked, and any user may read it; a key in it is root's
  use_wheel
  # By default the AWS libraries give the metadata service a second and one try; a busy machine needs more.
  export AWS_METADATA_SERVICE_TIMEOUT=5 AWS_METADATA_SERVICE_NUM_ATTEMPTS=10
  # Freed pages are kept for the next frame: giving them back to the kernel costs more than filtering does.
  export MALLOC_MMAP_THRESHOLD_=1073741824 MALLOC_TRIM_THRESHOLD_=4294967296
}

# Run a role, which needs no rights, beside a watcher, until the role ends; a signal to this script goes to the role.
# Usage: beside WATCHER COMMAND…
beside() {
  watcher=$1
  shift
  (exec setpriv --reuid=vidcloud --regid=vidcloud --init-groups --inh-caps=-all -- env HOME="$VIDCLOUD_RUN" "$@") &
  role=$!
  trap 'kill -TERM "$role" 2>/dev/null || :' TERM INT
  "$watcher" &
  watching=$!
  while :; do
    code=0
    wait "$role" || code=$?
    kill -0 "$role" 2>/dev/null || break # a signal ended the waiting, not the role
  done
  kill -KILL "$watching" 2>/dev/null || : # a TERM is lost between the fork and its first line
  return "$code"
}

# As in the boot hook: without a token only where this cloud may have but version 1.
metadata() {
  token=$(curl -sf --max-time 5 -X PUT -H 'X-aws-ec2-metadata-token-ttl-seconds: 300' "$VIDCLOUD_METADATA/latest/api/token") ||
    [ "${VIDCLOUD_IMDSV1:-}" = 1 ] || return 1
  curl -sf --max-time 5 ${token:+-H "X-aws-ec2-metadata-token: $token"} "$VIDCLOUD_METADATA/latest/meta-data/$1"
}
