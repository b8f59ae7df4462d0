-- Log schema 1: what a node of a cluster has promised to the others. The columns `leader` and
-- `kind`, the payloads and the texts of `state` belong to whoever speaks the protocol.

CREATE TABLE entries (
    id      INTEGER PRIMARY KEY,
    term    INTEGER NOT NULL,
    leader  INTEGER NOT NULL,
    kind    INTEGER NOT NULL,
    payload TEXT NOT NULL
);

-- One row. `cluster` and `node` are whose log this is and never change.
CREATE TABLE state (
    id        INTEGER PRIMARY KEY CHECK (id = 1),
    cluster   TEXT NOT NULL,
    node      INTEGER NOT NULL,
    vote      TEXT,
    committed TEXT,
    purged    TEXT
);
