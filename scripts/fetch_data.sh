#!/usr/bin/env bash
# Fetches Fashion-MNIST and the emoji pictures into ${ONEBLOCK_DATA:-data}; what is already there stays.
# Needs apt-get and dpkg for the first; npm and a Python with resvg-py and pillow for the second ($PYTHON,
# default python3).
set -euo pipefail

readonly scripts="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
readonly data="${ONEBLOCK_DATA:-data}"
readonly cache="$data/.cache"
readonly python="${PYTHON:-python3}"

readonly fashion_sha256=39e172fe32dd318ebb3e512220c3beea2fa47d7e20bab348fb4e0922d6beefc0
readonly fashion_files=(train-images-idx3-ubyte.gz train-labels-idx1-ubyte.gz
                        t10k-images-idx3-ubyte.gz t10k-labels-idx1-ubyte.gz)

# set, version, SHA-256 of the archive, licence of the drawings
readonly emoji_sets=(
    "noto 1.2.9 3e918d88fc945c0bb3d468dbace6f88caef67f01c9f0e7bcae0915a042e8f1ad Apache-2.0"
    "twemoji 1.2.5 19046dff7d8707ce96212ec86468b36ac5f8e60409629dd13f809265c6d0ebb7 CC-BY-4.0"
    "fluent-emoji-flat 1.2.6 7d064769dee690815f823bc5bcc511d957198caf9f5edd8dd9c1aa48a6aeb175 MIT"
    "noto-v1 1.2.5 2bf62c26c2c2884aa99e90aec942cdaee17a5921f05690694f4978ad4b017c37 Apache-2.0"
)

say() { printf 'fetch_data: %s\n' "$*" >&2; }

has() { command -v "$1" > /dev/null; }

# check_sha256 FILE DIGEST
check_sha256() {
    local found
    found="$(sha256sum "$1" | cut -d' ' -f1)"
    if [[ "$found" != "$2" ]]; then
        say "$1 has SHA-256 $found, expected $2; delete it and run again"
        return 1
    fi
}

have_fashion() {
    local file
    for file in "${fashion_files[@]}"; do
        [[ -s "$data/fashion-mnist/$file" ]] || return 1
    done
}

# Each step below is called in a condition, which switches `set -e` off inside it: hence the `|| return 1`.
fetch_fashion() {
    local archive file
    has apt-get && has dpkg || { say "fashion-mnist: needs apt-get and dpkg (Debian or Ubuntu)"; return 1; }
    mkdir -p "$cache/fashion-mnist" || return 1
    archive="$(find "$cache/fashion-mnist" -name 'dataset-fashion-mnist_*.deb' | head -n 1)"
    if [[ -z "$archive" ]]; then
        (cd "$cache/fashion-mnist" && apt-get -qq download dataset-fashion-mnist 2> apt.log) \
            || { say "fashion-mnist: apt-get download failed, see $cache/fashion-mnist/apt.log;" \
                     "apt-get update may help"
                 return 1; }
        archive="$(find "$cache/fashion-mnist" -name 'dataset-fashion-mnist_*.deb' | head -n 1)"
    fi
    check_sha256 "$archive" "$fashion_sha256" || return 1
    dpkg -x "$archive" "$cache/fashion-mnist/unpacked" || return 1
    mkdir -p "$data/fashion-mnist" || return 1
    for file in "${fashion_files[@]}"; do
        find "$cache/fashion-mnist/unpacked" -name "$file" \
            -exec cp {} "$data/fashion-mnist/$file" \; || return 1
    done
    rm -rf "$cache/fashion-mnist/unpacked"
    have_fashion || { say "fashion-mnist: the package lacks a file"; return 1; }
}

# fetch_emoji_set SET VERSION SHA256
fetch_emoji_set() {
    local archive="$cache/emoji/iconify-json-$1-$2.tgz"
    if [[ ! -s "$archive" ]]; then
        (cd "$cache/emoji" && npm pack --silent "@iconify-json/$1@$2" > /dev/null 2> npm.log) \
            || { say "emoji: npm pack @iconify-json/$1@$2 failed (see $cache/emoji/npm.log)"; return 1; }
    fi
    check_sha256 "$archive" "$3" || return 1
    mkdir -p "$cache/emoji/$1" && tar -xzf "$archive" -C "$cache/emoji/$1" --strip-components=1
}

fetch_emoji() {
    local entry name version digest _
    has npm || { say "emoji: needs npm"; return 1; }
    "$python" -c 'import PIL, resvg_py' 2> /dev/null \
        || { say "emoji: $python lacks resvg-py or pillow; pip install resvg-py pillow, or set PYTHON"; return 1; }
    mkdir -p "$cache/emoji" || return 1
    for entry in "${emoji_sets[@]}"; do
        read -r name version digest _ <<< "$entry"
        fetch_emoji_set "$name" "$version" "$digest" || return 1
    done
    # rendered aside and moved at the end, so that an interrupted run leaves no half-filled folder behind
    rm -rf "$cache/emoji/rendered" || return 1
    "$python" "$scripts/render_emoji.py" "$cache/emoji" "$cache/emoji/rendered" || return 1
    mv "$cache/emoji/rendered" "$data/emoji"
}

failed=0
if have_fashion; then
    say "fashion-mnist: already in $data/fashion-mnist"
elif fetch_fashion; then
    say "fashion-mnist: now in $data/fashion-mnist"
else
    failed=1
fi

if [[ -d "$data/emoji" ]]; then
    say "emoji: already in $data/emoji"
elif fetch_emoji; then
    say "emoji: now in $data/emoji"
else
    failed=1
fi

if (( failed )); then
    say "not everything could be fetched; the lines above say what is missing"
    exit 1
fi
