-- Who exists, what they hold, and what proves it.
-- Names are stored folded to lower case. Times are milliseconds since 1970 UTC. Booleans are 0 and 1.

CREATE TABLE meta (
    key   TEXT PRIMARY KEY,
    value INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- Bumped in the transaction of every change of identity data; what remembers a verification compares it.
INSERT INTO meta (key, value) VALUES ('version', 1);

-- AUTOINCREMENT: the number of a removed user is never given to another, so that nothing is inherited by accident.
CREATE TABLE users (
    id               INTEGER PRIMARY KEY AUTOINCREMENT,
    name             TEXT    NOT NULL UNIQUE,
    display          TEXT    NOT NULL DEFAULT '',
    email            TEXT    NOT NULL DEFAULT '',
    enabled          INTEGER NOT NULL DEFAULT 1 CHECK (enabled IN (0, 1)),
    created          INTEGER NOT NULL,
    expires          INTEGER,
    password         TEXT,
    password_changed INTEGER,
    last_sign_in     INTEGER,
    last_failure     INTEGER
) STRICT;

CREATE TABLE services (
    id          INTEGER PRIMARY KEY AUTOINCREMENT,
    name        TEXT    NOT NULL UNIQUE,
    description TEXT    NOT NULL DEFAULT '',
    enabled     INTEGER NOT NULL DEFAULT 1 CHECK (enabled IN (0, 1)),
    created     INTEGER NOT NULL
) STRICT;

-- One name space: REMOTE_USER must not mean a person to one application and a program to another.
CREATE TRIGGER users_share_names BEFORE INSERT ON users
WHEN EXISTS (SELECT 1 FROM services WHERE name = NEW.name)
BEGIN SELECT RAISE(ABORT, 'a service has that name'); END;

CREATE TRIGGER services_share_names BEFORE INSERT ON services
WHEN EXISTS (SELECT 1 FROM users WHERE name = NEW.name)
BEGIN SELECT RAISE(ABORT, 'a user has that name'); END;

CREATE TABLE roles (
    id          INTEGER PRIMARY KEY AUTOINCREMENT,
    name        TEXT    NOT NULL UNIQUE,
    description TEXT    NOT NULL DEFAULT '',
    created     INTEGER NOT NULL
) STRICT;

-- Holding `role` means holding `included`.
CREATE TABLE role_includes (
    role     INTEGER NOT NULL REFERENCES roles (id) ON DELETE CASCADE,
    included INTEGER NOT NULL REFERENCES roles (id) ON DELETE CASCADE,
    PRIMARY KEY (role, included),
    CHECK (role <> included)
) STRICT, WITHOUT ROWID;
CREATE INDEX role_includes_included ON role_includes (included);

CREATE TABLE user_roles (
    user INTEGER NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    role INTEGER NOT NULL REFERENCES roles (id) ON DELETE CASCADE,
    PRIMARY KEY (user, role)
) STRICT, WITHOUT ROWID;
CREATE INDEX user_roles_role ON user_roles (role);

CREATE TABLE service_roles (
    service INTEGER NOT NULL REFERENCES services (id) ON DELETE CASCADE,
    role    INTEGER NOT NULL REFERENCES roles (id) ON DELETE CASCADE,
    PRIMARY KEY (service, role)
) STRICT, WITHOUT ROWID;
CREATE INDEX service_roles_role ON service_roles (role);

-- The text of a token is never here: `digest` is its SHA-256. A JWT has none, its signature is checked instead.
CREATE TABLE tokens (
    id           TEXT    PRIMARY KEY,
    kind         TEXT    NOT NULL CHECK (kind IN ('opaque', 'jwt')),
    digest       BLOB    UNIQUE CHECK (digest IS NULL OR length(digest) = 32),
    label        TEXT    NOT NULL DEFAULT '',
    user         INTEGER REFERENCES users (id) ON DELETE CASCADE,
    service      INTEGER REFERENCES services (id) ON DELETE CASCADE,
    applications TEXT    CHECK (applications IS NULL OR json_valid(applications)),
    created      INTEGER NOT NULL,
    expires      INTEGER,
    revoked      INTEGER,
    last_used    INTEGER,
    CHECK ((user IS NULL) <> (service IS NULL)),
    CHECK ((kind = 'opaque') = (digest IS NOT NULL))
) STRICT, WITHOUT ROWID;
CREATE INDEX tokens_user ON tokens (user);
CREATE INDEX tokens_service ON tokens (service);

-- The newest signs; the others still verify what they signed.
CREATE TABLE signing_keys (
    kid         TEXT    PRIMARY KEY,
    private_pem TEXT    NOT NULL,
    created     INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
