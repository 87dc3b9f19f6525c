-- +goose Up

-- Enrolled cards. Certificates and revocation lists are JSON lists of DER in base64. Card number, expiry
-- and secrets are in the vault only, which the smart card opens.
CREATE TABLE card (
    id          TEXT   NOT NULL PRIMARY KEY, -- thumbprint of the certificate
    serial      TEXT   NOT NULL,             -- of the smart card
    bin         TEXT   NOT NULL,
    last4       TEXT   NOT NULL,
    certificate BYTEA  NOT NULL,
    chain       TEXT   NOT NULL,
    root        BYTEA  NOT NULL,
    bcis        TEXT   NOT NULL,
    crls        TEXT   NOT NULL,
    vault_key   BYTEA  NOT NULL,
    vault       BYTEA  NOT NULL,
    enrolled_s  BIGINT NOT NULL
);

-- Purchases from the moment their PReq exists. preq holds the octets that are sent, again if need be.
CREATE TABLE purchase (
    xid         TEXT   NOT NULL PRIMARY KEY,
    card        TEXT   NOT NULL REFERENCES card (id),
    order_key   BYTEA  NOT NULL,
    set_url     TEXT   NOT NULL,
    order_type  TEXT   NOT NULL,
    purchase    TEXT   NOT NULL,
    preq        BYTEA  NOT NULL,
    sent_s      BIGINT NOT NULL,
    outcome     TEXT   NOT NULL,
    completion  TEXT   NOT NULL,
    auth_code   TEXT   NOT NULL,
    result      BYTEA  NOT NULL, -- the merchant's signed answer
    answered_s  BIGINT NOT NULL
);
CREATE INDEX purchase_order ON purchase (order_key);
CREATE INDEX purchase_sent ON purchase (sent_s);
