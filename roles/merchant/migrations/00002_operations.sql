-- +goose Up

-- What was agreed of how the order is paid: '' at once, or as terms.go writes it.
ALTER TABLE shop_order ADD COLUMN terms TEXT NOT NULL DEFAULT '';

-- The operation that is under way; while there is one, no other is begun. Sales of before are brought into
-- the new form when the database is opened: their form is 1.
ALTER TABLE sale ADD COLUMN pending TEXT NOT NULL DEFAULT '';
ALTER TABLE sale ADD COLUMN form BIGINT NOT NULL DEFAULT 1;

-- One request to a gateway, of one sale or of several, or about a batch. The octets are made once and sent
-- until they are answered.
CREATE TABLE operation (
    id         TEXT   NOT NULL PRIMARY KEY,
    kind       TEXT   NOT NULL,
    state      TEXT   NOT NULL,
    asked_s    BIGINT NOT NULL,
    octets     BYTEA,
    body       BYTEA  NOT NULL -- JSON
);

-- What stands in the batches, by the merchant's own count.
CREATE TABLE batch_item (
    auth_rrpid BYTEA  NOT NULL,
    operation  TEXT   NOT NULL, -- that put it there
    xid        BYTEA  NOT NULL REFERENCES sale (xid),
    batch      BIGINT NOT NULL,
    brand      TEXT   NOT NULL,
    credit     BIGINT NOT NULL, -- 1: to the cardholder
    currency   BIGINT NOT NULL,
    amount     BIGINT NOT NULL,
    exponent   BIGINT NOT NULL,
    PRIMARY KEY (auth_rrpid, operation)
);
CREATE INDEX batch_item_batch ON batch_item (batch);

-- What gateways have told of themselves and of revocation: certificates by brand, CRLs and BrandCRLIdentifiers.
CREATE TABLE learnt (
    kind  TEXT  NOT NULL,
    name  TEXT  NOT NULL,
    value BYTEA NOT NULL, -- JSON
    PRIMARY KEY (kind, name)
);
