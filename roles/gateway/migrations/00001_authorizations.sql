-- +goose Up

-- One row for each authorization request that was authentic; see store.go for the states.
-- Amounts are in minor units of the currency. Nothing here tells what was ordered, and the account is
-- sealed by an HSM key, bound to rrpid; it is empty when the issuer was not to be asked.
CREATE TABLE auth (
    merchant       TEXT   NOT NULL,
    rrpid          BYTEA  NOT NULL,
    request_digest BYTEA  NOT NULL,
    xid            BYTEA  NOT NULL,
    pi_digest      BYTEA  NOT NULL,
    account        BYTEA  NOT NULL,
    state          TEXT   NOT NULL,
    code           BIGINT NOT NULL,
    approval       TEXT   NOT NULL,
    currency       BIGINT NOT NULL,
    amount         BIGINT NOT NULL,
    captured       BIGINT NOT NULL,
    terminal       TEXT   NOT NULL,
    acquirer       TEXT   NOT NULL,
    stan           TEXT   NOT NULL,
    rrn            TEXT   NOT NULL UNIQUE,
    transmission   TEXT   NOT NULL,
    created_ms     BIGINT NOT NULL,
    PRIMARY KEY (merchant, rrpid)
);

-- Payment instructions are used once, unless the issuer holds nothing for them.
CREATE UNIQUE INDEX auth_pi ON auth (xid, pi_digest) WHERE state NOT IN ('declined', 'reversed');
CREATE INDEX auth_pending ON auth (created_ms) WHERE state = 'pending';
CREATE INDEX auth_created ON auth (created_ms);
