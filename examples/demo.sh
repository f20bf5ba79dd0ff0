#!/usr/bin/env bash
# Serves the three examples. Called by `make demo`:
#   demo.sh PROGRAM DIRECTORY PORT VENV
# Makes an installation in DIRECTORY the first time and reuses it after that.
set -euo pipefail

program=$1 directory=$2 port=$3 venv=$4
repository=$(cd "$(dirname "$0")/.." && pwd)
config=$directory/portcullis.toml
password_file=$directory/admin-password

if [[ ! -e $config ]]; then
  mkdir -p "$directory"
  # Kept in a file so that a second run can show it again: a demonstration's password, not an example to follow.
  (umask 077 && python3 -c 'import secrets; print("-".join(secrets.token_hex(2) for _ in range(4)))' >"$password_file")
  "$program" init --dir "$directory" --listen "127.0.0.1:$port" --admin admin --admin-password-file "$password_file" >/dev/null
  sed -i "s|^directory = \"policies\"|directory = \"$repository/policies\"|" "$config"
  cat >>"$config" <<TOML

# Where the examples run; see docs/operations.md.
[namespace.hello]
[namespace.notes]
[namespace.wiki]
environment = { WIKI_ADMINS = "admin" }
TOML
fi

# The wiki's tables and static files: what its own deployment would do.
data=$(cd "$directory" && pwd)/data/namespaces/wiki
(umask 077 && mkdir -p "$data")
export PORTCULLIS_DATA_DIR=$data DATABASE_URL=sqlite:///$data/database.sqlite3
"$venv/bin/python" "$repository/examples/wiki/manage.py" migrate --noinput --verbosity 0
"$venv/bin/python" "$repository/examples/wiki/manage.py" collectstatic --noinput --verbosity 0
unset PORTCULLIS_DATA_DIR DATABASE_URL

password=$(<"$password_file")
cat <<TEXT

  Portcullis serves three applications. Sign in as admin with the password $password

    https://localhost:$port/hello/   a bare callable that shows its environ
    https://localhost:$port/notes/   Flask: notes per user
    https://localhost:$port/wiki/    Django: a wiki and its admin site

  Try, from this directory in another terminal:

    curl --cacert $directory/certs/ca.pem -u admin:$password https://localhost:$port/hello/
    curl --cacert $directory/certs/ca.pem -u admin:$password https://localhost:$port/notes/api/notes
    curl --cacert $directory/certs/ca.pem -H "Authorization: Bearer \$($program --config $config token create --user admin)" https://localhost:$port/wiki/

  Ctrl-C stops everything.

TEXT
exec "$program" --config "$config" serve --listen "127.0.0.1:$port"
