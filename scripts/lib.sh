# Sourced by the scripts beside it: finds Python and sets up virtual environments. Bash; assumes only Python >= 3.11 with venv.

say() { printf '\033[2m==>\033[0m %s\n' "$*" >&2; }
[ -t 2 ] || say() { printf '==> %s\n' "$*" >&2; }

# Prints a Python that can be used: $POINTSMAN_PYTHON, or the newest of those that the locks were made for, or python3.
pick_python() {
    local candidate
    for candidate in ${POINTSMAN_PYTHON:+"$POINTSMAN_PYTHON"} python3.13 python3.12 python3.11 python3 python; do
        if "$candidate" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then
            "$candidate" -c 'import sys; print(sys.executable)'
            return
        fi
    done
    echo "Python 3.11 or newer with its venv module is needed and was not found." >&2
    echo "Install it (Debian, Ubuntu: apt install python3 python3-venv), or set POINTSMAN_PYTHON to one." >&2
    return 2
}

# make_venv FOLDER LOCK: a virtual environment holding exactly what LOCK lists and this project. Does nothing when it is there already.
make_venv() {
    local venv=$PWD/$1 lock=$2 python stamp started=$SECONDS
    python=$(pick_python)
    stamp=$("$python" -c '
import hashlib, sys
print(sys.version.split()[0], sys.argv[1], hashlib.sha256(open(sys.argv[2], "rb").read()).hexdigest())' "$venv" "$lock")
    (
        if command -v flock >/dev/null; then flock 9; fi # two runs at once: the second waits
        if [ "$(cat "$venv/stamp" 2>/dev/null)" = "$stamp" ] && "$venv/bin/python" -c '' 2>/dev/null; then exit 0; fi
        say "setting up $1 with Python $("$python" -c 'import platform; print(platform.python_version())') (once, about a minute; from $lock)"
        "$python" -m venv --clear "$venv"
        # Nothing compiles: wheels only, and only those whose hash the lock names; byte code is made when a module is first imported.
        "$venv/bin/python" -m pip install -qq --no-compile --disable-pip-version-check --require-hashes --only-binary :all: -r "$lock"
        "$venv/bin/python" - "$PWD" <<'PYTHON'
import pathlib, sys, sysconfig
# The project itself, straight from this folder: no build, no network.
pathlib.Path(sysconfig.get_path("purelib"), "pointsman.pth").write_text(sys.argv[1] + "\n")
command = pathlib.Path(sysconfig.get_path("scripts"), "pointsman")
command.write_text(f"#!/bin/sh\nexec '{sys.executable}' -P -m gateway \"$@\"\n")
command.chmod(0o755)
PYTHON
        printf '%s\n' "$stamp" >"$venv/stamp"
        say "set up in $((SECONDS - started)) s"
    ) 9>"$venv.lock"
}
