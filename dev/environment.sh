# Makes the isolated environment .venv that ./quickstart and ./test share; does nothing when it is up to date.
# Usage: environment ROOT [EXTRA]. PYTHON names the interpreter; default: the first of Python 3.11 or newer.

find_python() {
    local candidate
    for candidate in "${PYTHON:-}" python3 python3.13 python3.12 python3.11 python; do
        [ -n "$candidate" ] || continue
        if "$candidate" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
    echo "no Python 3.11 or newer with venv was found" >&2
    echo "  expected: python3 (with its venv module) on PATH, or PYTHON=/path/to/python" >&2
    echo "  next: install Python 3.11+, on Debian and Ubuntu also the package python3-venv" >&2
    exit 1
}

environment() {
    local root="$1" extra="${2:-}" venv="$1/.venv" stamp want python
    stamp="$venv/.installed${extra:+-$extra}"
    want="$(cat "$root/pyproject.toml" "$root/constraints.txt" | cksum)"
    if [ -x "$venv/bin/exnihilo" ] && [ "$(cat "$stamp" 2>/dev/null)" = "$want" ]; then
        return
    fi
    python="$(find_python)"
    echo "setting up $venv with $("$python" --version) (once; a few minutes, mostly PyTorch) ..." >&2
    [ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check \
        --constraint "$root/constraints.txt" --editable "$root${extra:+[$extra]}"
    echo "$want" > "$stamp"
}
