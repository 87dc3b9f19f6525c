-- +goose Up

-- What was ordered. The id and lid_m are unguessable: who knows them may see, or pay, the order.
CREATE TABLE shop_order (
    id          TEXT   NOT NULL PRIMARY KEY,
    number      BIGINT NOT NULL UNIQUE,
    lid_m       BYTEA  NOT NULL UNIQUE,
    created_s   BIGINT NOT NULL,
    state       TEXT   NOT NULL,
    xid         BYTEA, -- of the sale that pays or last tried to pay it
    description BYTEA  NOT NULL,
    lines       BYTEA  NOT NULL, -- JSON
    currency    BIGINT NOT NULL,
    amount      BIGINT NOT NULL,
    exponent    BIGINT NOT NULL
);

-- Every PInit pair makes a sale, and a purchase request is for one of them. Card data are only in the
-- payment instructions, which are encrypted for the gateway.
CREATE TABLE sale (
    xid           BYTEA  NOT NULL PRIMARY KEY,
    order_id      TEXT   NOT NULL REFERENCES shop_order (id),
    created_s     BIGINT NOT NULL,
    state         TEXT   NOT NULL,
    request       BYTEA, -- SHA-256 of the purchase request
    record        BYTEA  NOT NULL, -- JSON
    auth_req      BYTEA, -- octets of AuthReq
    capture_state TEXT   NOT NULL,
    cap_req       BYTEA  -- octets of CapReq
);
CREATE INDEX sale_order ON sale (order_id);
CREATE INDEX sale_state ON sale (state, created_s);
