-- +goose Up

-- Amounts are in minor units of the account's currency. Every change of an account's amounts has its
-- row in ledger, so that each amount is the sum of its column there.
CREATE TABLE account (
    id         TEXT   NOT NULL PRIMARY KEY,
    pan_mac    BYTEA  NOT NULL UNIQUE, -- finds the account by its number
    card_mac   BYTEA  NOT NULL,        -- number and expiry
    holder_mac BYTEA  NOT NULL,        -- number and holder's name
    secret_mac BYTEA  NOT NULL,        -- number and registration secret
    sealed     BYTEA  NOT NULL,        -- number, expiry and holder's name
    status     TEXT   NOT NULL CHECK (status IN ('active', 'blocked', 'stolen', 'closed')),
    currency   BIGINT NOT NULL,
    available  BIGINT NOT NULL CHECK (available >= 0),
    held       BIGINT NOT NULL CHECK (held >= 0),
    booked     BIGINT NOT NULL CHECK (booked >= 0),
    entries    BIGINT NOT NULL
);

CREATE TABLE ledger (
    account_id   TEXT   NOT NULL REFERENCES account (id),
    entry        BIGINT NOT NULL,
    at_s         BIGINT NOT NULL,
    kind         TEXT   NOT NULL,
    available    BIGINT NOT NULL,
    held         BIGINT NOT NULL,
    booked       BIGINT NOT NULL,
    acquirer     TEXT   NOT NULL,
    stan         TEXT   NOT NULL,
    rrn          TEXT   NOT NULL,
    transmission TEXT   NOT NULL,
    PRIMARY KEY (account_id, entry)
);

-- Every authorization that was asked for, and every one that was reversed before it was.
CREATE TABLE purchase (
    acquirer     TEXT   NOT NULL,
    stan         TEXT   NOT NULL,
    rrn          TEXT   NOT NULL,
    transmission TEXT   NOT NULL,
    account_id   TEXT   REFERENCES account (id), -- NULL: no such account, or reversed before
    state        TEXT   NOT NULL CHECK (state IN ('declined', 'held', 'lapsed', 'reversed', 'cleared')),
    amount       BIGINT NOT NULL,
    currency     BIGINT NOT NULL,
    merchant     TEXT   NOT NULL,
    xid          BYTEA  NOT NULL,
    code         TEXT   NOT NULL, -- what was answered
    approval     TEXT   NOT NULL,
    cleared      BIGINT NOT NULL,
    at_s         BIGINT NOT NULL,
    lapses_s     BIGINT NOT NULL,
    PRIMARY KEY (acquirer, stan, rrn, transmission)
);
CREATE INDEX purchase_lapses ON purchase (state, lapses_s);

-- Account checks that were answered, so that a repeated one does not count twice.
CREATE TABLE account_check (
    acquirer     TEXT   NOT NULL,
    stan         TEXT   NOT NULL,
    rrn          TEXT   NOT NULL,
    transmission TEXT   NOT NULL,
    request_mac  BYTEA  NOT NULL,
    code         TEXT   NOT NULL,
    at_s         BIGINT NOT NULL,
    PRIMARY KEY (acquirer, stan, rrn, transmission)
);
CREATE INDEX account_check_at ON account_check (at_s);

-- Failed account checks by card number, whether an account has it or not.
CREATE TABLE failed_check (
    pan_mac  BYTEA  NOT NULL PRIMARY KEY,
    failures BIGINT NOT NULL,
    at_s     BIGINT NOT NULL
);
CREATE INDEX failed_check_at ON failed_check (at_s);
