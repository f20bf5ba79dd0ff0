-- What happened, in order, for ever.

CREATE TABLE audit (
    sequence    INTEGER PRIMARY KEY AUTOINCREMENT,
    at          INTEGER NOT NULL,
    event       TEXT    NOT NULL,
    actor       TEXT    NOT NULL,
    target      TEXT,
    application TEXT,
    address     TEXT,
    outcome     TEXT    NOT NULL CHECK (outcome IN ('ok', 'refused', 'failed')),
    reason      TEXT,
    rule        TEXT,
    credential  TEXT,
    details     TEXT    CHECK (details IS NULL OR json_valid(details))
) STRICT;
CREATE INDEX audit_at ON audit (at);
CREATE INDEX audit_event ON audit (event);

-- Append-only against our own mistakes; who can write the file can do anything.
CREATE TRIGGER audit_never_changes BEFORE UPDATE ON audit
BEGIN SELECT RAISE(ABORT, 'audit records are never changed'); END;

CREATE TRIGGER audit_never_forgets BEFORE DELETE ON audit
BEGIN SELECT RAISE(ABORT, 'audit records are never removed'); END;
