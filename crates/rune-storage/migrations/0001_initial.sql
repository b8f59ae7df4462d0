-- Schema 1.
--
-- Ids are 16-byte blobs behind a unique index; rows refer to each other by the
-- integer key. The two hot tables need no secondary index, because their integer
-- key is composed (src/key.rs):
--   journal.id  = requests.id * 2^20 + seq
--   messages.id = sessions.id * 2^24 + n
-- JSON is stored once, in the journal; projections refer to it.

CREATE TABLE sessions (
    id         INTEGER PRIMARY KEY,
    session_id TEXT NOT NULL UNIQUE,
    namespace  TEXT NOT NULL,
    agent      TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    metadata   TEXT NOT NULL
);

CREATE TABLE requests (
    id                INTEGER PRIMARY KEY,
    request_id        BLOB NOT NULL UNIQUE,
    session           INTEGER NOT NULL,
    status            TEXT NOT NULL,
    last_seq          INTEGER NOT NULL,
    -- The command that wrote last and the first entry it wrote: the receipt of
    -- AcceptRequest and AppendEntries.
    command_id        BLOB NOT NULL,
    command_seq       INTEGER NOT NULL,
    cancel_requested  INTEGER NOT NULL,
    attempts          INTEGER NOT NULL,
    model_calls       INTEGER NOT NULL,
    tool_calls        INTEGER NOT NULL,
    input_tokens      INTEGER NOT NULL,
    output_tokens     INTEGER NOT NULL,
    cached_tokens     INTEGER NOT NULL,
    cache_write_tokens INTEGER NOT NULL,
    reasoning_tokens  INTEGER NOT NULL,
    cost_micro_usd    INTEGER,
    unpriced_calls    INTEGER NOT NULL,
    created_at        INTEGER NOT NULL,
    updated_at        INTEGER NOT NULL,
    replica_id        BLOB,
    deployment_id     BLOB NOT NULL,
    version_id        BLOB NOT NULL,
    checkpoint        TEXT NOT NULL,
    namespace         TEXT NOT NULL,
    agent             TEXT NOT NULL,
    caller            TEXT NOT NULL,
    metadata          TEXT NOT NULL,
    -- The tool call that made it, where another request did.
    parent_id         BLOB,
    parent_call       TEXT,
    root_id           BLOB,
    depth             INTEGER,
    -- The shared budgets that its model calls are counted against, where there are some.
    budgets           TEXT,
    -- The request that it is a fork of.
    origin            INTEGER
);
CREATE INDEX requests_by_origin ON requests (origin) WHERE origin IS NOT NULL;
CREATE INDEX requests_by_root ON requests (root_id) WHERE root_id IS NOT NULL;
CREATE INDEX requests_by_session ON requests (session);
-- On the id, so that the newest live requests are read in order without touching the others; with
-- the rest of what a start asks, so that it reads no row of those that wait for a person.
-- Not `IN (...)`: for that SQLite builds a table of its own with every row it writes.
CREATE INDEX requests_live ON requests (id, status, cancel_requested)
    WHERE status = 'accepted' OR status = 'running' OR status = 'input-required';
-- What a caller asked an agent, by its last change. Only of those that change no more, so that a
-- request that runs moves no entry of it; the others are in the index above.
CREATE INDEX requests_ended ON requests (namespace, agent, caller, updated_at, id, status)
    WHERE status = 'completed' OR status = 'failed' OR status = 'cancelled';

CREATE TABLE journal (
    id   INTEGER PRIMARY KEY,
    at   INTEGER NOT NULL,
    body TEXT NOT NULL
);

CREATE TABLE messages (
    id      INTEGER PRIMARY KEY,
    journal INTEGER NOT NULL,
    -- The name by which the model called the tool, in the message of a result.
    tool    TEXT
);

-- One row per tool call in a model's reply. It is a tool invocation once it has
-- an intent or a result; both are positions in the journal.
CREATE TABLE tool_calls (
    id      INTEGER PRIMARY KEY,
    request INTEGER NOT NULL,
    call_id TEXT NOT NULL,
    name    TEXT NOT NULL,
    intent  INTEGER,
    result  INTEGER,
    UNIQUE (request, call_id)
);

-- Outputs of tools that are in the object store. A handle is made from the digest, so the
-- same output twice is one row.
CREATE TABLE spilled_outputs (
    id      INTEGER PRIMARY KEY,
    session INTEGER NOT NULL,
    handle  TEXT NOT NULL,
    digest  TEXT NOT NULL,
    bytes   INTEGER NOT NULL,
    UNIQUE (session, handle)
);

-- Question and answer are journal entries of the request; these are their numbers.
CREATE TABLE approvals (
    id          INTEGER PRIMARY KEY,
    approval_id BLOB NOT NULL UNIQUE,
    request     INTEGER NOT NULL,
    asked       INTEGER NOT NULL,
    given       INTEGER,
    state       TEXT NOT NULL,
    deadline    INTEGER,
    asked_at    INTEGER NOT NULL,
    decided_at  INTEGER
);
CREATE INDEX approvals_by_request ON approvals (request);
CREATE INDEX approvals_waiting ON approvals (id) WHERE state = 'waiting';
CREATE INDEX approvals_due ON approvals (deadline) WHERE state = 'waiting' AND deadline IS NOT NULL;

-- Remembered decisions.
CREATE TABLE grants (
    id        INTEGER PRIMARY KEY,
    namespace TEXT NOT NULL,
    agent     TEXT NOT NULL,
    tool      TEXT NOT NULL,
    session   INTEGER,
    policies  TEXT NOT NULL,
    decision  TEXT NOT NULL,
    by        TEXT NOT NULL,
    at        INTEGER NOT NULL
);
CREATE INDEX grants_by_tool ON grants (namespace, agent, tool);
CREATE INDEX grants_by_session ON grants (session) WHERE session IS NOT NULL;

-- Outlives its request, so that deleting a session does not hide a cost.
CREATE TABLE usage (
    id                 INTEGER PRIMARY KEY,
    request_id         BLOB NOT NULL,
    seq                INTEGER NOT NULL,
    at                 INTEGER NOT NULL,
    namespace          TEXT NOT NULL,
    agent              TEXT NOT NULL,
    provider           TEXT NOT NULL,
    model              TEXT NOT NULL,
    input_tokens       INTEGER NOT NULL,
    output_tokens      INTEGER NOT NULL,
    cached_tokens      INTEGER NOT NULL,
    cache_write_tokens INTEGER NOT NULL,
    reasoning_tokens   INTEGER NOT NULL,
    caller             TEXT NOT NULL,
    -- Unknown where the model has no price.
    cost_micro_usd     INTEGER
);
CREATE INDEX usage_by_request ON usage (request_id);

-- What is spent and reserved of a budget that model calls share. The caps are those that the
-- last call stated; a budget that is not one of a day has day 0.
CREATE TABLE budgets (
    id                 INTEGER PRIMARY KEY,
    kind               TEXT NOT NULL,
    key                TEXT NOT NULL,
    day                INTEGER NOT NULL,
    cap_tokens         INTEGER,
    cap_micro_usd      INTEGER,
    spent_tokens       INTEGER NOT NULL,
    spent_micro_usd    INTEGER NOT NULL,
    reserved_tokens    INTEGER NOT NULL,
    reserved_micro_usd INTEGER NOT NULL,
    updated_at         INTEGER NOT NULL,
    UNIQUE (kind, key, day)
);

-- Model calls under way: at the most one per request, which need not be stored.
CREATE TABLE reservations (
    id         INTEGER PRIMARY KEY,
    request_id BLOB NOT NULL UNIQUE,
    at         INTEGER NOT NULL,
    held       TEXT NOT NULL
);

CREATE TABLE idempotency_keys (
    id          INTEGER PRIMARY KEY,
    scope       TEXT NOT NULL,
    key         TEXT NOT NULL,
    fingerprint TEXT NOT NULL,
    request_id  BLOB NOT NULL,
    at          INTEGER NOT NULL,
    UNIQUE (scope, key)
);

-- One of the two is there. Rejections are kept of the commands of a replicated log only.
CREATE TABLE receipts (
    id         INTEGER PRIMARY KEY,
    command_id BLOB NOT NULL UNIQUE,
    at         INTEGER NOT NULL,
    reply      TEXT,
    reject     TEXT
);

-- How far a replicated log has been applied, in the words of whoever keeps the log, and the time of
-- the state, which is that of the latest command. One row at the most, and none in the store of a
-- single node.
CREATE TABLE replication (
    id       INTEGER PRIMARY KEY CHECK (id = 1),
    position TEXT NOT NULL,
    clock    INTEGER NOT NULL
);

CREATE TABLE versions (
    id          INTEGER PRIMARY KEY,
    version_id  BLOB NOT NULL UNIQUE,
    agent       TEXT NOT NULL,
    version     TEXT NOT NULL,
    description TEXT NOT NULL,
    digest      TEXT NOT NULL,
    size        INTEGER NOT NULL,
    image       TEXT,
    min_replicas INTEGER NOT NULL,
    max_replicas INTEGER NOT NULL,
    signature   TEXT,
    created_at  INTEGER NOT NULL,
    UNIQUE (agent, digest)
);

CREATE TABLE deployments (
    id            INTEGER PRIMARY KEY,
    deployment_id BLOB NOT NULL UNIQUE,
    namespace     TEXT NOT NULL,
    agent         TEXT NOT NULL,
    alias         TEXT NOT NULL,
    version_id    BLOB NOT NULL,
    replicas      INTEGER NOT NULL,
    scaling       TEXT,
    env           TEXT NOT NULL,
    project       TEXT,
    project_agent TEXT,
    rollout       TEXT,
    releases      TEXT NOT NULL,
    generation    INTEGER NOT NULL,
    state         TEXT NOT NULL,
    reason        TEXT NOT NULL,
    created_at    INTEGER NOT NULL,
    updated_at    INTEGER NOT NULL,
    UNIQUE (namespace, agent, alias)
);

CREATE TABLE replicas (
    id            INTEGER PRIMARY KEY,
    replica_id    BLOB NOT NULL UNIQUE,
    deployment_id BLOB NOT NULL,
    version_id    BLOB NOT NULL,
    state         TEXT NOT NULL,
    reason        TEXT NOT NULL,
    backend       TEXT NOT NULL,
    endpoint      TEXT,
    created_at    INTEGER NOT NULL,
    updated_at    INTEGER NOT NULL
);
CREATE INDEX replicas_by_deployment ON replicas (deployment_id);

CREATE TABLE cache (
    id         INTEGER PRIMARY KEY,
    key        TEXT NOT NULL UNIQUE,
    value      TEXT NOT NULL,
    expires_at INTEGER NOT NULL
);
CREATE INDEX cache_by_expiry ON cache (expires_at);

CREATE TABLE schedules (
    id           INTEGER PRIMARY KEY,
    schedule_id  BLOB NOT NULL UNIQUE,
    namespace    TEXT NOT NULL,
    name         TEXT NOT NULL,
    agent        TEXT NOT NULL,
    spec         TEXT NOT NULL,
    paused       INTEGER NOT NULL,
    next_fire_at INTEGER,
    -- Of one that events fire.
    topic        TEXT,
    created_at   INTEGER NOT NULL,
    updated_at   INTEGER NOT NULL,
    UNIQUE (namespace, name)
);
CREATE INDEX schedules_by_event ON schedules (namespace, name) WHERE topic IS NOT NULL;

CREATE TABLE schedule_fires (
    id         INTEGER PRIMARY KEY,
    schedule   INTEGER NOT NULL,
    planned_at INTEGER NOT NULL,
    manual     INTEGER NOT NULL,
    event_id   BLOB,
    state      TEXT NOT NULL,
    reason     TEXT NOT NULL,
    request_id BLOB,
    fired_at   INTEGER NOT NULL,
    UNIQUE (schedule, planned_at, manual)
);
-- The fires of a schedule in the order they were recorded.
CREATE INDEX schedule_fires_by_schedule ON schedule_fires (schedule);
CREATE INDEX schedule_fires_pending ON schedule_fires (planned_at) WHERE state = 'pending';

-- Work that agents of a namespace leave for each other.
CREATE TABLE tasks (
    id           INTEGER PRIMARY KEY,
    task_id      BLOB NOT NULL UNIQUE,
    namespace    TEXT NOT NULL,
    queue        TEXT NOT NULL,
    title        TEXT NOT NULL,
    payload      TEXT NOT NULL,
    priority     INTEGER NOT NULL,
    max_attempts INTEGER NOT NULL,
    attempts     INTEGER NOT NULL,
    posted_by    TEXT NOT NULL,
    state        TEXT NOT NULL,
    holder       TEXT,
    lease_until  INTEGER,
    result       TEXT NOT NULL,
    created_at   INTEGER NOT NULL,
    updated_at   INTEGER NOT NULL
);
CREATE INDEX tasks_waiting ON tasks (namespace, queue, priority DESC, id)
    WHERE state = 'open' OR state = 'claimed';
CREATE INDEX tasks_ended ON tasks (namespace, queue, id) WHERE state = 'done' OR state = 'failed';

CREATE TABLE events (
    id         INTEGER PRIMARY KEY,
    event_id   BLOB NOT NULL UNIQUE,
    namespace  TEXT NOT NULL,
    topic      TEXT NOT NULL,
    payload    TEXT NOT NULL,
    publisher  TEXT NOT NULL,
    request_id BLOB,
    depth      INTEGER NOT NULL,
    fires      INTEGER NOT NULL,
    at         INTEGER NOT NULL
);
CREATE INDEX events_by_namespace ON events (namespace, id);

-- Messages to people, until the adapter of their channel has taken them.
CREATE TABLE outbox (
    id         INTEGER PRIMARY KEY,
    message_id BLOB NOT NULL UNIQUE,
    namespace  TEXT NOT NULL,
    agent      TEXT NOT NULL,
    channel    TEXT NOT NULL,
    recipient  TEXT NOT NULL,
    text       TEXT NOT NULL,
    request_id BLOB NOT NULL,
    created_at INTEGER NOT NULL
);
CREATE INDEX outbox_by_namespace ON outbox (namespace);

-- Webhooks of requests, encrypted outside of the store.
CREATE TABLE pushes (
    id         INTEGER PRIMARY KEY,
    request    INTEGER NOT NULL,
    push_id    TEXT NOT NULL,
    key_id     TEXT NOT NULL,
    sealed     BLOB NOT NULL,
    -- The last entry of the journal that it was told of.
    told       INTEGER NOT NULL,
    -- Whether that was the end of the request.
    done       INTEGER NOT NULL,
    attempts   INTEGER NOT NULL,
    next_at    INTEGER NOT NULL,
    created_at INTEGER NOT NULL,
    UNIQUE (request, push_id)
);
CREATE INDEX pushes_open ON pushes (next_at) WHERE done = 0;

-- Encrypted outside of the store.
CREATE TABLE secrets (
    id         INTEGER PRIMARY KEY,
    namespace  TEXT NOT NULL,
    name       TEXT NOT NULL,
    key_id     TEXT NOT NULL,
    sealed     BLOB NOT NULL,
    updated_by TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    UNIQUE (namespace, name)
);

CREATE TABLE audit (
    id         INTEGER PRIMARY KEY,
    audit_id   BLOB NOT NULL UNIQUE,
    at         INTEGER NOT NULL,
    kind       TEXT NOT NULL,
    resource   TEXT NOT NULL,
    verdict    TEXT NOT NULL,
    reason     TEXT NOT NULL,
    caller     TEXT NOT NULL,
    request_id BLOB
);
CREATE INDEX audit_by_request ON audit (request_id) WHERE request_id IS NOT NULL;

-- What agents know.
CREATE TABLE entities (
    id         INTEGER PRIMARY KEY,
    namespace  TEXT NOT NULL,
    agent      TEXT NOT NULL,
    name       TEXT NOT NULL,
    kind       TEXT NOT NULL,
    properties TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    UNIQUE (namespace, agent, name)
);

CREATE TABLE relations (
    id         INTEGER PRIMARY KEY,
    source     INTEGER NOT NULL,
    kind       TEXT NOT NULL,
    target     INTEGER NOT NULL,
    properties TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    UNIQUE (source, kind, target)
);
CREATE INDEX relations_by_target ON relations (target);

-- The words of entities under their ids; the texts themselves are not kept twice.
CREATE VIRTUAL TABLE entity_words USING fts5 (
    words, content = '', contentless_delete = 1, tokenize = 'unicode61 remove_diacritics 2'
);

CREATE TABLE memories (
    id         INTEGER PRIMARY KEY,
    namespace  TEXT NOT NULL,
    agent      TEXT NOT NULL,
    key        TEXT NOT NULL,
    value      TEXT NOT NULL,
    tags       TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    UNIQUE (namespace, agent, key)
);
