-- +goose Up

-- The response that was given to each request; see AnswerKey.
CREATE TABLE sqldb_answer (
    peer           TEXT   NOT NULL,
    message        TEXT   NOT NULL,
    rrpid          BYTEA  NOT NULL,
    request_digest BYTEA  NOT NULL,
    response       BYTEA  NOT NULL,
    expires_s      BIGINT NOT NULL,
    PRIMARY KEY (peer, message, rrpid)
);
CREATE INDEX sqldb_answer_expires ON sqldb_answer (expires_s);

-- Work that committed state changes left to be done. A job at work has a lease, and is due again when
-- that ends.
CREATE TABLE sqldb_job (
    id       TEXT   NOT NULL PRIMARY KEY,
    kind     TEXT   NOT NULL,
    ref      TEXT   NOT NULL,
    payload  BYTEA  NOT NULL,
    due_ms   BIGINT NOT NULL,
    attempts BIGINT NOT NULL,
    lease    TEXT   NOT NULL
);
CREATE INDEX sqldb_job_due ON sqldb_job (due_ms);
