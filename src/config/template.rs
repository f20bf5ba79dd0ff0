//! The `portcullis.toml` that `init` writes: what matters is set, the rest stands there with its default.

use std::net::SocketAddr;

use super::TlsVersion;
use crate::model::SecurityLevel;

/// The text of a commented `portcullis.toml`. `certificate` and `key` are paths relative to it.
#[must_use]
pub fn template(listen: SocketAddr, level: SecurityLevel, certificate: &str, key: &str) -> String {
    // As wide as the column before the comments.
    let wide = |text: String| format!("{text:<38}");
    let listen = wide(format!("listen = [\"{listen}\"]"));
    let minimum = wide(format!("# minimum = \"{}\"", TlsVersion::of(level).word()));
    let methods = wide(format!("# methods = [{}]", quoted(level)));
    let level = wide(format!("level = \"{level}\""));
    let (certificate, key) = (string(certificate), string(key));
    format!(
        r#"# Portcullis: the system. Applications are described in policies/, one file each.
# Paths are relative to this file. Times: "500ms", "30s", "5m", "2h", "90d". Sizes: "64KiB", "100MiB", "2GiB".
# What is commented out stands there with its default. `portcullis check` reads this file and says what is wrong.

[gateway]
{listen} # addresses for HTTPS
# redirect_listen = []                 # addresses for plain HTTP, answered with a redirect to HTTPS
# threads = 2                          # data threads; one for each core by default
# trusted_proxies = []                 # networks whose X-Forwarded-For is believed
# proxy_protocol = []                  # networks that must speak the PROXY protocol
# hosts = []                           # host names that are served; empty is any
# watch = true                         # changes of this file and of policies/ come into force by themselves

[forward_auth]
# trusted = []                         # proxies that may ask about applications which run elsewhere; none is off

[tls]
{minimum} # 1.2 | 1.3; the default follows the security level

[[tls.certificate]]                    # several are chosen from by name; the first is the fallback
certificate = {certificate}
key = {key}

[security]
{level} # minimal | normal | locked-down
{methods} # what is permitted at all; the default follows the level

[tokens]
# issuer = "portcullis"                # `iss` of tokens issued here

[limits]
# header_bytes = "64KiB"               # request line and header fields
# headers = 100                        # header fields
# body_bytes = "100MiB"                # request bodies, where an application says nothing else
# body_memory = "64MiB"                # all bodies that wait in memory together; more go to files
# body_disk = "16GiB"                  # the same in temporary files in the data directory
# connections = 10000
# queue = 1024                         # requests that wait for one application

[timeouts]
# handshake = "10s"                    # TLS
# head = "10s"                         # request line and header fields
# idle = "60s"                         # a kept-alive connection
# body = "30s"                         # between two pieces of a request's body
# queue = "30s"                        # until a thread of the application takes a request
# request = "60s"                      # from then until an application's answer begins
# start = "60s"                        # a worker's start
# deadlock = "60s"                     # an interpreter that gives no sign of life
# stop = "30s"                         # what is running may finish

[passwords]                            # what one verification costs (Argon2id)
# memory_kib = 19456
# iterations = 2
# parallelism = 1
# hashing_threads = 1                  # half the cores by default
# queue = 64                           # sign-ins that wait

[store]
path = "data/portcullis.sqlite3"       # users, roles, tokens, keys, audit

[policies]
directory = "policies"

[data]
directory = "data"

[logs]
directory = "logs"
# max_bytes = "50MiB"                  # a file is rotated at this size
# keep = 5                             # rotated files kept
# level = "info"                       # error | warn | info | debug | trace

[workers]
# environments = ["venvs"]             # where a policy's python = "NAME" is looked for, before PATH

# Where applications run. One that names no namespace has one of its own, named like it.
# [namespace.notes]
# directory = "../notes"               # working directory; the application's own by default
# data = "data/namespaces/notes"       # a private writable directory
# database_url = "postgresql://notes@db.example.org/notes"   # an SQLite file in `data` by default
# environment = {{ NOTES_MODE = "production" }}
# user = "33"                          # whom its workers run as; the gateway has to be started as root
# group = "33"                         # that user's own by default
# memory = "512MiB"                    # of one worker; no limit by default, like the next two
# processes = 64                       # processes and threads of the user
# files = 1024                         # open files of one worker
# readable = ["../shared"]             # beside the application's own directory, Python and the system's libraries
# writable = ["../uploads"]            # beside `data`
# confined = true                      # false: workers may do whatever their user may

# What rules of policies would otherwise repeat: from = "office", path = "assets".
# [networks]
# office = ["10.0.0.0/8", "2001:db8::/32"]
# [paths]
# assets = ["/static/**", "/favicon.ico"]
"#
    )
}

fn quoted(level: SecurityLevel) -> String {
    level.methods().iter().map(|method| format!("\"{method}\"")).collect::<Vec<_>>().join(", ")
}

fn string(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}
