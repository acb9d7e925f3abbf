#!/usr/bin/env bash
# Build the images and use each as a stranger would: an unknown user, a root that cannot be written, no network.
#   docker/test.sh [cpu] [cuda]          default: both
# With Docker or Podman where one of them runs; else, as root, with buildah, on a base made by debootstrap.
#   ENGINE=docker|podman|buildah         default: the first that works
#   BASE_IMAGE=...                       another base; it must bring Python 3.11 or newer with venv
#   KEEP=1                               keep the images: gpuroi-test:cpu, gpuroi-test:cuda
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

readonly NOBODY=4321:8765 # neither the user of the image nor anybody on the host

main() {
    local -a kinds=("$@")
    ((${#kinds[@]})) || kinds=(cpu cuda)
    ENGINE=${ENGINE:-$(find_engine)}
    WORK=$(mktemp -d)
    trap clean_up EXIT
    say "engine $ENGINE"
    [[ $ENGINE != buildah ]] || prepare_buildah
    for kind in "${kinds[@]}"; do
        say "$kind: build"
        build "$kind"
        say "$kind: $(size_of "gpuroi-test:$kind")"
        use "$kind"
    done
    say "passed: ${kinds[*]}"
}

find_engine() {
    local engine
    for engine in docker podman; do
        if command -v "$engine" >/dev/null && "$engine" info >/dev/null 2>&1; then
            echo "$engine"
            return
        fi
    done
    command -v buildah >/dev/null || fail "no engine: start Docker or Podman, or apt-get install buildah debootstrap"
    echo buildah
}

build() { # KIND
    local -a options=(-f "docker/Dockerfile.$1" -t "gpuroi-test:$1" --build-arg REVISION="$(revision)")
    [[ -z ${BASE_IMAGE:-} ]] || options+=(--build-arg BASE_IMAGE="$BASE_IMAGE")
    if [[ $ENGINE == buildah ]]; then
        # A network that ends in a proxy of its own needs the certificates, and the settings of pip, of this machine.
        options+=(--pull=never --format docker -v /etc/ssl/certs:/etc/ssl/certs:ro)
        [[ ! -f /etc/pip.conf ]] || options+=(-v /etc/pip.conf:/etc/pip.conf:ro)
        buildah_here bud "${options[@]}" . >"$WORK/build-$1.log" 2>&1 || fail "$(tail -n 20 "$WORK/build-$1.log")"
    else
        "$ENGINE" build "${options[@]}" .
    fi
}

use() { # KIND
    local image=gpuroi-test:$1
    DATA=$WORK/data-$1
    mkdir -m 777 "$DATA"
    say "$1: gpuroi info"
    run_in "$image" info
    say "$1: gpuroi demo, gpuroi roi"
    run_in "$image" demo demo
    run_in "$image" roi demo/bold.nii.gz --conditions demo/labels.tsv --contrast face-house --mask demo/mask.nii.gz \
        --min-region-size 800 --device cpu --out roi
    [[ $(stat -c %u:%g "$DATA/roi/atlas.nii.gz") == "$NOBODY" ]] || fail "results belong to another user"
    [[ $(wc -l <"$DATA/roi/atlas.tsv") == 5 ]] || fail "not the 4 regions that the README shows"
    grep -q '"Tag": "gpuroi:' "$DATA/roi/dataset_description.json" || fail "the results do not name the container"
    [[ -s $DATA/roi/report.html && -n $(ls "$DATA/roi/figures") ]] || fail "no report, or no figures"
    say "$1: gpuroi screen"
    run_in "$image" screen demo/participants.tsv --formula 'map ~ group + age' --contrast 'patient=group[T.patient]' \
        --mask demo/mask.nii.gz --atlas demo/atlas_dseg.nii.gz --n-perm 100 --tfce --device cpu --out screen
    [[ -s $DATA/screen/report.html && -s $DATA/screen/contrast-patient_clusters.tsv ]] || fail "no clusters, or no report"
    say "$1: gpuroi roi --device cuda"
    local status=0
    run_in "$image" roi demo/bold.nii.gz --conditions demo/labels.tsv --contrast face-house --device cuda --out cuda ||
        status=$?
    [[ $status == 69 ]] || fail "exit $status; without a GPU 69 is expected, and a reason"
}

run_in() { # IMAGE WORDS...: run gpuroi on the folder $DATA
    local image=$1
    shift
    if [[ $ENGINE == buildah ]]; then
        run_in_chroot "$image" "$@"
    else
        "$ENGINE" run --rm --user "$NOBODY" --read-only --tmpfs /tmp --network none -v "$DATA:/data" "$image" "$@"
    fi
}

run_in_chroot() { # IMAGE WORDS...: what an engine does, from its image's own settings
    local container root status=0
    local -a settings entry
    container=$(buildah_here from --pull-never "$1")
    root=$(buildah_here mount "$container")
    shift
    mapfile -t settings < <(inspect "$container" '{{range .OCIv1.Config.Env}}{{println .}}{{end}}' | sed '/^$/d')
    mapfile -t entry < <(inspect "$container" '{{range .OCIv1.Config.Entrypoint}}{{println .}}{{end}}' | sed '/^$/d')
    # shellcheck disable=SC2016  # expanded inside
    unshare --mount --net bash -euc '
        root=$1 data=$2 user=$3
        shift 3
        mount --bind "$root" "$root"
        mount --rbind /dev "$root/dev"
        mount --rbind /proc "$root/proc"
        mount -t tmpfs tmpfs "$root/tmp"
        mount --bind "$data" "$root/data"
        mount -o remount,bind,ro "$root"
        exec chroot --userspec="$user" "$root" /usr/bin/env -i -C /data "$@"
    ' in-image "$root" "$DATA" "$NOBODY" "${settings[@]}" "${entry[@]}" "$@" || status=$?
    buildah_here umount "$container" >/dev/null
    buildah_here rm "$container" >/dev/null
    return $status
}

prepare_buildah() {
    [[ $(id -u) -eq 0 ]] || fail "buildah needs root here"
    export BUILDAH_ISOLATION=chroot
    STORE=(--storage-driver vfs --root "$WORK/store" --runroot "$WORK/run") # of its own: removed at the end
    [[ -z ${BASE_IMAGE:-} ]] || return 0
    command -v debootstrap >/dev/null || fail "apt-get install debootstrap, or give BASE_IMAGE"
    say "base: debootstrap"
    debootstrap --variant=minbase --include=ca-certificates,python3,python3-venv bookworm "$WORK/base" \
        >"$WORK/debootstrap.log" 2>&1 || fail "$(tail -n 20 "$WORK/debootstrap.log")"
    local container
    container=$(buildah_here from scratch)
    buildah_here copy --quiet "$container" "$WORK/base" / >/dev/null
    buildah_here config --env PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin "$container"
    buildah_here commit --quiet --rm "$container" localhost/gpuroi-base >/dev/null
    rm -rf "$WORK/base"
    BASE_IMAGE=localhost/gpuroi-base
}

inspect() { # CONTAINER TEMPLATE
    buildah_here inspect --format "$2" "$1"
}

size_of() { # IMAGE
    if [[ $ENGINE == buildah ]]; then
        buildah_here images --format '{{.Size}}' "$1"
    else
        "$ENGINE" image inspect --format '{{.Size}} bytes' "$1"
    fi
}

revision() {
    git rev-parse --short HEAD 2>/dev/null || echo unknown
}

buildah_here() {
    buildah "${STORE[@]}" "$@"
}

clean_up() {
    if [[ $ENGINE != buildah && -z ${KEEP:-} ]]; then
        "$ENGINE" image rm -f gpuroi-test:cpu gpuroi-test:cuda >/dev/null 2>&1 || true
    fi
    rm -rf "$WORK"
}

say() {
    printf '== %s\n' "$*"
}

fail() {
    printf 'docker/test.sh: %s\n' "$*" >&2
    exit 1
}

main "$@"
