-- +goose Up

-- Who ordered: a session of the shop, or '' for another shop that orders through the API. That one has its own
-- name for the order, its own pages to come back to, and may want to be told of every change.
ALTER TABLE shop_order ADD COLUMN session TEXT NOT NULL DEFAULT '';
ALTER TABLE shop_order ADD COLUMN reference TEXT NOT NULL DEFAULT '';
ALTER TABLE shop_order ADD COLUMN success_url TEXT NOT NULL DEFAULT '';
ALTER TABLE shop_order ADD COLUMN failure_url TEXT NOT NULL DEFAULT '';
ALTER TABLE shop_order ADD COLUMN cancel_url TEXT NOT NULL DEFAULT '';
ALTER TABLE shop_order ADD COLUMN tell BIGINT NOT NULL DEFAULT 0;
ALTER TABLE shop_order ADD COLUMN version BIGINT NOT NULL DEFAULT 1; -- grows with every change that is told
CREATE INDEX shop_order_session ON shop_order (session, number);
CREATE INDEX shop_order_state ON shop_order (state, number);

-- A request to make an order makes it once, however often it comes.
ALTER TABLE shop_order ADD COLUMN request_key TEXT;
ALTER TABLE shop_order ADD COLUMN request_digest BYTEA;
CREATE UNIQUE INDEX shop_order_request ON shop_order (request_key);

-- Customers of the shop. The id is the SHA-256 of what their browser has.
CREATE TABLE shop_session (
    id      TEXT   NOT NULL PRIMARY KEY,
    used_s  BIGINT NOT NULL,
    basket  BYTEA  NOT NULL, -- JSON
    version BIGINT NOT NULL  -- of the basket
);
CREATE INDEX shop_session_used ON shop_session (used_s);
